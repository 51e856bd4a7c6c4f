import { describe, expect, test } from "bun:test";
import { viewOf } from "../../src/status/build_status_view.ts";
import { ago, DAY, facts, following, NOW, rotating, rotation, steady, version } from "../harness/facts.ts";

const LED = { owner: "cli host-a pid 9", token: 1, expires_at: new Date(NOW.getTime() + 20_000) };
const RAN_OUT = { ...LED, expires_at: ago(90_000) };

describe("versions", () => {
  const viewed = (...versions: ReturnType<typeof version>[]) =>
    viewOf(facts({ state: { versions, rotation: undefined } })).versions;

  test("each with its records, its wraps, who has verified it, and since when it is what it is", () => {
    const roster = [
      steady(1),
      steady(2, { loaded: [1], available: [3] }),
      steady(3, { loaded: [1], problems: [{ version: 2, reason: "wrong_key" }] }),
    ];
    const rows = [
      { field: "a:b", version: "1", count: 3 },
      { field: "a:c", version: "1", count: 4 },
      { field: "a:c", version: '"1"', count: 5 },
    ];
    const versions = [
      version(1, "active", { wraps: 2 ** 30 }),
      version(2, "staged"),
      version(3, "retired"),
      version(4, "destroyed"),
    ];
    const view = viewOf(facts({ roster, versionCounts: { rows, at: NOW }, state: { versions, rotation: undefined } }));
    expect(view.versions).toMatchObject([
      {
        version: 1,
        records: 7,
        wraps_percent: 25,
        canary: { verified_by: 3, of: 3 },
        since: ago(9 * DAY).toISOString(),
        age_ms: 10 * DAY,
      },
      {
        version: 2,
        records: 0,
        canary: { verified_by: 1, wrong_key: ["api-3 (api, host-a, pid 3)"] },
        since: ago(10 * DAY).toISOString(),
      },
      { version: 3, canary: { verified_by: 1 }, since: ago(8 * DAY).toISOString() },
      { version: 4, canary: { verified_by: 0 }, since: ago(7 * DAY).toISOString() },
    ]);
  });

  test("policy counts a key's use from its first, also of one that is gone back to; the others are not due", () => {
    const [again, other] = viewed(
      version(1, "active", { activated_at: ago(DAY), first_activated_at: ago(400 * DAY) }),
      version(2, "retired"),
    );
    expect(again).toMatchObject({ since: ago(DAY).toISOString(), due_at: ago(35 * DAY).toISOString(), overdue: true });
    expect(other).toMatchObject({ due_at: null, overdue: false });
    expect(viewed(version(1, "active", { activated_at: ago(364 * DAY) }))).toMatchObject([{ overdue: false }]);
  });
});

describe("the open rotation", () => {
  test("who has acknowledged this very phase, and who is awaited", () => {
    const view = viewOf(rotating(rotation(2), { late: 1 }));
    expect(view).toMatchObject({ phase: 2, write_version: 2 });
    expect(view.rotation).toMatchObject({
      acknowledged: ["api-1 (api, host-a, pid 1)", "api-2 (api, host-a, pid 2)"],
      awaited: ["api-3 (api, host-a, pid 3)"],
    });
    expect(view.processes.map(({ acknowledged }) => acknowledged)).toEqual([true, true, false]);
    // An acknowledgement of another rotation, or phase, with the same epoch is none.
    const other = [{ rotation: 2, epoch: 7, phase: 2 } as const, { rotation: 3, epoch: 7, phase: 1 } as const, null];
    const awaited = viewOf(rotating(rotation(2), { roster: other.map((acked, number) => steady(number, { acked })) }));
    expect(awaited.rotation?.acknowledged).toEqual([]);
    expect(viewOf(facts()).processes.map(({ acknowledged }) => acknowledged)).toEqual([null, null, null]);
  });

  test("rate and ETA while it is led, none while it is not", () => {
    const pace = [ago(8000), ago(4000), ago(0)].map((at, index) => ({ at, done: 10 + 20 * index }));
    const led = viewOf(rotating(rotation(2, { pace }))).rotation;
    expect(led).toMatchObject({ led: true, done: 40, remaining: 60, rate: 5, eta_ms: 12_000, lease_ran_out_ms: null });
    expect(led?.pace.map(({ rate }) => rate)).toEqual([5, 5]);
    for (const over of [{ lease: RAN_OUT }, { lease: { ...LED, owner: null } }, { state: "cancelled" as const }]) {
      expect(viewOf(rotating(rotation(2, { pace, ...over }))).rotation).toMatchObject({
        led: false,
        rate: null,
        eta_ms: null,
      });
    }
    expect(viewOf(rotating(rotation(2, { lease: RAN_OUT }))).rotation?.lease_ran_out_ms).toBe(90_000);
    const standing = pace.map(({ at }) => ({ at, done: 40 }));
    expect(viewOf(rotating(rotation(2, { pace: standing }))).rotation).toMatchObject({ rate: 0, eta_ms: null });
  });

  test("what can be done next", () => {
    const does = (doc: ReturnType<typeof rotation>) =>
      viewOf(rotating(doc)).rotation?.next_steps.map((way) => [way.does, way.command.slice(25)]);
    const go = "--to-version=2";
    const back = "--to-version=1 --from-version=2";
    expect(does(rotation(1))).toEqual([["stop", "--cancel"]]);
    expect(does(rotation(2))).toEqual([["stop", "--cancel"]]);
    expect(does(rotation(3))).toEqual([]);
    expect(does(rotation(1, { lease: RAN_OUT }))).toEqual([
      ["go on", go],
      ["stop", "--cancel"],
    ]);
    expect(does(rotation(2, { lease: RAN_OUT }))).toEqual([
      ["go on", go],
      ["back", back],
    ]);
    expect(does(rotation(2, { state: "cancelled" }))).toEqual([
      ["go on", go],
      ["back", back],
    ]);
    expect(does(rotation(3, { lease: RAN_OUT }))).toEqual([
      ["let it complete", go],
      ["then go back", back],
    ]);
  });
});

test("history: those that have ended, with how long they took; none of them waits for anybody", () => {
  const ended = (_id: number, over: object) => {
    const { open: _, ...doc } = rotation(3, { _id, started_at: ago(DAY), ...over });
    return doc;
  };
  const history = [
    rotation(2),
    ended(2, { state: "completed", ended_at: ago(DAY - 90_000) }),
    ended(1, { state: "reverted", phase: 2, phase_times: { "1": ago(DAY - 1000), "2": ago(DAY - 4000) } }),
  ];
  const view = viewOf(rotating(rotation(2), { history }));
  expect(view.history).toMatchObject([
    { rotation: 2, state: "completed", duration_ms: 90_000, awaited: [], next_steps: [], rate: null },
    { rotation: 1, state: "reverted", duration_ms: 4000 },
  ]);
  expect(view.history).toHaveLength(2);
  // One that was started after the state was read.
  expect(viewOf(facts({ history })).history).toHaveLength(2);
});

describe("drift", () => {
  const codes = (seen: ReturnType<typeof facts>) => viewOf(seen).drift.map(({ code, process }) => `${process} ${code}`);

  test("each process against the state", () => {
    expect(codes(facts())).toEqual([]);
    expect(codes(facts({ roster: [steady(1, { current_version: 2 }), steady(2, { write_version: 2 })] }))).toEqual([
      "member-1 declares_other",
      "member-2 write_version",
    ]);
    expect(codes(facts({ roster: [steady(1, { current_version: null, write_version: null })] }))).toEqual([]);
    // Either version will do while a rotation leads from one to the other.
    const roster = [steady(1), steady(2, { current_version: 2, write_version: 2 }), steady(3, { current_version: 9 })];
    expect(codes(rotating(rotation(2), { roster }))).toEqual(["member-3 declares_other"]);
  });

  test("while Stale envelopes are repaired nobody may declare or write the version they are at", () => {
    const doc = rotation(2, { from: 2, to: 1, repairs: true });
    const state = { versions: [version(1, "active"), version(2, "retired")], rotation: doc };
    const roster = [steady(1, { acked: following(doc) }), steady(2, { acked: following(doc), write_version: 2 })];
    expect(codes(facts({ state, roster }))).toEqual(["member-2 write_version"]);
  });
});

test("an empty install is a view, and every view is plain JSON", () => {
  const empty = facts({
    state: { versions: [], rotation: undefined },
    roster: [],
    versionCounts: { rows: [], at: NOW },
  });
  for (const seen of [empty, facts(), rotating(rotation(2), { late: 1 })]) {
    const view = viewOf(seen);
    expect(JSON.parse(JSON.stringify(view))).toEqual(view as never);
  }
  expect(viewOf(empty)).toMatchObject({ phase: 0, write_version: null, versions: [], processes: [], drift: [] });
});
