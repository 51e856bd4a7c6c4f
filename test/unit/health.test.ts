import { describe, expect, test } from "bun:test";
import { viewOf } from "../../src/status/build_status_view.ts";
import type { StatusFacts } from "../../src/status/status_facts.ts";
import type { Health } from "../../src/status/status_view.ts";
import type { AuditTail } from "../../src/store/audit_tail.ts";
import { ago, DAY, facts, rotating, rotation, steady, version } from "../harness/facts.ts";

/** What a person is told first, over every situation there is. */

const GONE = { owner: "cli host-a pid 9", token: 1, expires_at: ago(90_000) };
const NOBODY = { owner: null, token: 1, expires_at: ago(5000) };
const three = (over: Parameters<typeof steady>[1], number = 3) => [steady(1), steady(2), steady(number, over)];
const versions = (...list: ReturnType<typeof version>[]) => ({ versions: list, rotation: undefined });
const broken: AuditTail = {
  entries: [],
  chain: { state: "broken", checked: 2, fault: "entry 9: its mac does not match" },
};
const FAILED = { field: "secrets:value", id: "7", reason: "the wrap does not open" };
const failedFields = [{ field: "secrets:value", done: 40, remaining: 60, failed: 1 }];
const NAMED = (number: number) => `api-${number} (api, host-a, pid ${number})`;

/** What is so, what is said, and what each reason says. */
const CASES: [string, StatusFacts, Health["level"], string, string[]][] = [
  ["all is well", facts(), "ok", "Healthy: 3 processes serve and write under KEK version 1", []],
  [
    "a single process",
    facts({ roster: [steady(1)] }),
    "ok",
    "Healthy: 1 process serves and writes under KEK version 1",
    [],
  ],
  [
    "nothing has begun",
    facts({ roster: [], state: versions() }),
    "problem",
    "1 thing needs attention",
    ["no KEK version is active"],
  ],
  [
    "only staged",
    facts({ state: versions(version(1, "staged")) }),
    "problem",
    "1 thing needs attention",
    ["no KEK version is active"],
  ],
  ["nobody is there", facts({ roster: [] }), "problem", "1 thing needs attention", ["no process is in the fleet"]],
  [
    "the token of one is unavailable while its heart beats",
    facts({ roster: three({ key_trouble: "KEK version 1 cannot be used: the token is unavailable" }) }),
    "problem",
    "1 thing needs attention",
    [`${NAMED(3)} can neither encrypt nor decrypt: KEK version 1 cannot be used: the token is unavailable`],
  ],
  [
    "one beats, and follows a state that is gone",
    facts({ roster: three({ acked: { rotation: 9, epoch: 12, phase: 0 } }) }),
    "problem",
    "1 thing needs attention",
    [`${NAMED(3)} does not follow the state, and fences itself`],
  ],
  [
    "one has stayed behind at a rotation that ended",
    facts({
      state: {
        versions: [version(1, "active")],
        rotation: rotation(3, {
          state: "completed",
          ended_at: ago(31_000),
          phase_times: {},
          from: 2,
          to: 1,
        }),
      },
      roster: [1, 2].map((number) => steady(number, { acked: { rotation: 3, epoch: 7, phase: number === 1 ? 0 : 3 } })),
    }),
    "problem",
    "1 thing needs attention",
    [`${NAMED(2)} does not follow the state, and fences itself`],
  ],
  [
    "a rotation has just ended",
    facts({
      state: {
        versions: [version(1, "active")],
        rotation: rotation(3, { state: "completed", ended_at: ago(2000), from: 2, to: 1 }),
      },
      roster: [steady(1, { acked: { rotation: 3, epoch: 7, phase: 3 } })],
    }),
    "ok",
    "Healthy: 1 process serves and writes under KEK version 1",
    [],
  ],
  [
    "one is silent",
    facts({ roster: three({ age_ms: 45_000 }) }),
    "problem",
    "1 thing needs attention",
    [`${NAMED(3)} is silent: its last heartbeat was 45 s ago`],
  ],
  [
    "one has just joined",
    facts({ roster: three({ acked: null, loaded: [], started_at: ago(2000) }) }),
    "action_due",
    "Healthy: 2 processes serve and write under KEK version 1; 2 things are to be done soon",
    ["has not finished joining", "does not hold KEK version 1"],
  ],
  [
    "nobody has finished joining",
    facts({ roster: [steady(1, { acked: null, started_at: ago(2000) })] }),
    "action_due",
    "No process serves yet: the one there is has not finished joining",
    ["has not finished joining"],
  ],
  [
    "a collection could not be fenced",
    facts({
      state: {
        versions: [version(1, "retired"), version(2, "active")],
        rotation: rotation(3, {
          state: "completed",
          ended_at: ago(2000),
          fence: { versions: [1], collections: [], unfenced: ["users"] },
        }),
      },
      roster: [steady(1, { current_version: 2, write_version: 2 })],
      versionCounts: { rows: [], at: ago(0) },
    }),
    "action_due",
    "Healthy: 1 process serves and writes under KEK version 2; 1 thing is to be done soon",
    ["MongoDB does not reject envelopes of a version that was left in users"],
  ],
  [
    "one does not get ready",
    facts({ roster: three({ acked: null, loaded: [], started_at: ago(60_000) }) }),
    "problem",
    "2 things need attention",
    ["has not finished joining", "does not hold KEK version 1"],
  ],
  [
    "other bytes, also in one that has just joined",
    facts({
      roster: three({
        acked: null,
        loaded: [],
        started_at: ago(2000),
        problems: [{ version: 1, reason: "wrong_key" }],
      }),
    }),
    "problem",
    "1 thing needs attention",
    ["holds other bytes under KEK version 1", "has not finished joining"],
  ],
  [
    "other bytes for a version to come",
    facts({ roster: three({ loaded: [1], problems: [{ version: 2, reason: "wrong_key" }] }) }),
    "problem",
    "1 thing needs attention",
    ["holds other bytes under KEK version 2"],
  ],
  [
    "a rolling restart before a rotation",
    facts({ roster: [steady(1, { current_version: 2 }), steady(2, { current_version: 2 }), steady(3)] }),
    "action_due",
    "Healthy: 3 processes serve and write under KEK version 1; 1 thing is to be done soon",
    ["2 of 3 processes declare KEK version 2, and the install is at 1"],
  ],
  [
    "one that writes another version",
    facts({ roster: three({ write_version: 2 }) }),
    "problem",
    "1 thing needs attention",
    ["writes under version 2, and the install is at 1"],
  ],
  [
    "other fleet times",
    facts({ roster: three({ fleet: { beat_ms: 1, lease_ms: 30_000, eviction_ms: 60_000, drain_ms: 5000 } }) }),
    "action_due",
    "Healthy: 3 processes serve and write under KEK version 1; 1 thing is to be done soon",
    ["has other fleet times than"],
  ],
  [
    "policy asks for the next",
    facts({ rotationPeriodMs: 5 * DAY }),
    "action_due",
    "Healthy: 3 processes serve and write under KEK version 1; 1 thing is to be done soon",
    ["KEK version 1 was due to be rotated on 2026-04-27"],
  ],
  [
    "a version that nobody holds",
    facts({ roster: [steady(1, { loaded: [1] })] }),
    "action_due",
    "Healthy: 1 process serves and writes under KEK version 1; 1 thing is to be done soon",
    ["KEK version 2 is staged, and no process holds its key"],
  ],
  [
    "staged a moment ago",
    facts({
      roster: [steady(1, { loaded: [1] })],
      state: versions(version(1, "active"), version(2, "staged", { staged_at: ago(1000) })),
    }),
    "ok",
    "Healthy: 1 process serves and writes under KEK version 1",
    [],
  ],
  [
    "half of the wraps are made",
    facts({ state: versions(version(1, "active", { wraps: 2 ** 31 })) }),
    "action_due",
    "Healthy: 3 processes serve and write under KEK version 1; 1 thing is to be done soon",
    ["has made 2147483648 wraps, 50%"],
  ],
  [
    "no wrap is left",
    facts({ state: versions(version(1, "active", { wraps: 2 ** 32 })) }),
    "problem",
    "1 thing needs attention",
    ["makes no more"],
  ],
  [
    "stale_envelopes",
    facts({ versionCounts: { rows: [{ field: "secrets:value", version: "9", count: 1 }], at: ago(0) } }),
    "problem",
    "1 thing needs attention",
    ["1 envelope of secrets:value is at version 9"],
  ],
  [
    "the audit chain is broken",
    facts({ audit: broken }),
    "problem",
    "1 thing needs attention",
    ["entry 9: its mac does not match"],
  ],

  ["phase 1", rotating(rotation(1)), "in_progress", "Rotation 1 → 2 is in phase 1 of 3 (announce)", []],
  [
    "phase 1, two late",
    rotating(rotation(1), { late: 2 }),
    "in_progress",
    `Rotation 1 → 2 is in phase 1 of 3 (announce) and waits for ${NAMED(2)}, ${NAMED(3)}`,
    [],
  ],
  [
    "phase 2",
    rotating(rotation(2)),
    "in_progress",
    "Rotation 1 → 2 is in phase 2 of 3 (re-wrap): 40% of the records moved",
    [],
  ],
  [
    "phase 2, at a rate",
    rotating(
      rotation(2, {
        pace: [
          { at: ago(6000), done: 10 },
          { at: ago(0), done: 40 },
        ],
      }),
    ),
    "in_progress",
    "Rotation 1 → 2 is in phase 2 of 3 (re-wrap): 40% of the records moved, 12 s left",
    [],
  ],
  [
    "phase 2 of the first second",
    rotating(rotation(2, { fields: [] })),
    "in_progress",
    "Rotation 1 → 2 is in phase 2 of 3 (re-wrap)",
    [],
  ],
  ["phase 3", rotating(rotation(3)), "in_progress", "Rotation 1 → 2 is in phase 3 of 3 (settle)", []],
  [
    "Stale envelopes are repaired",
    rotating(rotation(2, { from: 2, to: 1, repairs: true }), {
      state: {
        versions: [version(1, "active"), version(2, "retired")],
        rotation: rotation(2, { from: 2, to: 1, repairs: true }),
      },
      roster: [steady(1, { acked: { rotation: 3, epoch: 7, phase: 2 } })],
    }),
    "in_progress",
    "Rotation 2 → 1 of stale envelopes is in phase 2 of 3 (re-wrap): 40% of the records moved",
    [],
  ],
  [
    "a process died meanwhile",
    rotating(rotation(2), { roster: [steady(1, { age_ms: 40_000, current_version: 2 })] }),
    "problem",
    `1 thing needs attention; rotation 1 → 2 is in phase 2 of 3 (re-wrap) and waits for ${NAMED(1)}`,
    ["is silent"],
  ],
  [
    "its coordinator died",
    rotating(rotation(2, { lease: GONE })),
    "problem",
    "1 thing needs attention; rotation 1 → 2 stands still in phase 2 of 3 (re-wrap): nobody leads it",
    ["is unfinished (phase 2, running) and nobody leads it"],
  ],
  [
    "its coordinator gave up in phase 3",
    rotating(rotation(3, { lease: NOBODY })),
    "problem",
    "1 thing needs attention; rotation 1 → 2 stands still in phase 3 of 3 (settle): nobody leads it",
    ["nobody leads it"],
  ],
  [
    "records failed",
    rotating(rotation(2, { lease: NOBODY, failed: [FAILED], fields: failedFields })),
    "problem",
    "2 things need attention; rotation 1 → 2 stands still in phase 2 of 3 (re-wrap): nobody leads it",
    ["nobody leads it", "1 record cannot be rewrapped; the first: 7 of secrets:value: the wrap does not open"],
  ],
  [
    "cancelled half way",
    rotating(rotation(2, { state: "cancelled", lease: NOBODY })),
    "action_due",
    "Rotation 1 → 2 is cancelled half way: 100 records are still at version 1",
    ["is unfinished (phase 2, cancelled)"],
  ],
  [
    "cancelled, and one record left",
    rotating(rotation(2, { state: "cancelled" }), {
      versionCounts: { rows: [{ field: "a:b", version: "1", count: 1 }], at: ago(0) },
    }),
    "action_due",
    "Rotation 1 → 2 is cancelled half way: 1 record is still at version 1",
    ["is unfinished"],
  ],
  [
    "cancelled, and all moved",
    rotating(rotation(2, { state: "cancelled" }), { versionCounts: { rows: [], at: ago(0) } }),
    "action_due",
    "Rotation 1 → 2 is cancelled half way: no record is still at version 1",
    ["is unfinished"],
  ],
  [
    "the overdue version is being left",
    rotating(rotation(2), { rotationPeriodMs: DAY }),
    "in_progress",
    "Rotation 1 → 2 is in phase 2 of 3 (re-wrap): 40% of the records moved",
    [],
  ],
  [
    "cancelled in phase 1: steady",
    facts({
      state: {
        ...versions(version(1, "active"), version(2, "staged")),
        rotation: rotation(1, { state: "cancelled", ended_at: ago(2000) }),
      },
    }),
    "ok",
    "Healthy: 3 processes serve and write under KEK version 1",
    [],
  ],
];

describe("the health", () => {
  test.each(CASES)("%s", (_, seen, level, headline, findings) => {
    const { health } = viewOf(seen);
    expect([health.level, health.headline]).toEqual([level, headline]);
    expect(health.findings.map(({ message }) => message)).toEqual(
      findings.map((words) => expect.stringContaining(words)),
    );
    // Each names a next step, and what is urgent comes first.
    for (const { hint } of health.findings) expect(hint.length).toBeGreaterThan(10);
    expect(health.findings.map(({ urgent }) => urgent)).toEqual(
      health.findings.map(({ urgent }) => urgent).sort((a, b) => Number(b) - Number(a)),
    );
    expect(health.findings.some(({ urgent }) => urgent)).toBe(level === "problem");
  });

  test("a rotation that is led evicts the silent by itself; one that is not must be told to", () => {
    const silent = (lease: typeof GONE | undefined) =>
      viewOf(
        rotating(rotation(2, lease === undefined ? {} : { lease }), { roster: [steady(1, { age_ms: 40_000 })] }),
      ).health.findings.find(({ message }) => message.includes("is silent"))?.hint;
    expect(silent(undefined)).toContain("continues without it");
    expect(silent(GONE)).toContain("kek rotate --to-version=2 --evict=member-1");
  });

  test("the same trouble two hundred times is counted", () => {
    const roster = Array.from({ length: 200 }, (_, number) => steady(number, { age_ms: 99_000, current_version: 2 }));
    const { health } = viewOf(facts({ roster }));
    expect(health.headline).toBe("200 things need attention");
    expect(health.findings.map(({ message }) => message.replace(/^.*\) /, ""))).toEqual([
      ...Array.from({ length: 3 }, () => "is silent: its last heartbeat was 99 s ago"),
      "197 more like it",
      "200 of 200 processes declare KEK version 2, and the install is at 1",
    ]);
    const late = rotating(rotation(1), { roster: roster.map((one) => ({ ...one, age_ms: 10 })) });
    expect(viewOf(late).health.headline).toEndWith("and 197 more");
  });
});
