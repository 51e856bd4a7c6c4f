import { expect, test } from "bun:test";
import type { Document } from "mongodb";
import type { Change } from "./history.ts";
import { brokenRules, judge } from "./rules.ts";

/** The rules over a history, each with one that keeps it and one that breaks it. */

let clock = 0;
const when = () => {
  clock += 100;
  return new Date(1_700_000_000_000 + clock);
};
const secret = (version: number, revision = 0, payload = `p${revision}`): Change => ({
  of: "secret",
  id: 1,
  at: when(),
  version,
  revision,
  payload,
});
const version = (id: number, state: string): Change => ({ of: "version", id, at: when(), doc: { _id: id, state } });
const beat = (
  acked: Document | null,
  loaded: number[],
  id = "a",
  write = (acked?.["phase"] ?? 0) < 2 ? 1 : 2,
): Change => ({
  of: "heartbeat",
  id,
  at: when(),
  doc: {
    _id: id,
    instance_name: id,
    acked,
    loaded,
    write_version: write,
    updated_at: when(),
    fleet: { lease_ms: 1500 },
  },
});
const rotation = (phase: number, epoch: number, more: Document = {}): Change => ({
  of: "rotation",
  id: 1,
  at: when(),
  doc: {
    _id: 1,
    from: 1,
    to: 2,
    open: true,
    state: "running",
    phase,
    epoch,
    lease: { owner: "cli a", token: 1, expires_at: new Date(9e12) },
    ...more,
  },
});
const told = (event: string, data: Document, actor = "cli a"): Change => ({
  of: "audit",
  at: when(),
  event,
  actor,
  data,
});
const acked = (epoch: number, phase: number) => ({ rotation: 1, epoch, phase });

const START = [
  version(1, "active"),
  version(2, "staged"),
  secret(1),
  beat({ rotation: null, epoch: 0, phase: 0 }, [1]),
];
const PHASE_1 = [...START, rotation(1, 1), beat(acked(1, 1), [1, 2])];
const PHASE_2 = [
  ...PHASE_1,
  rotation(2, 2),
  told("rotation.phase", { rotation: 1, phase: 2 }),
  beat(acked(2, 2), [1, 2]),
];
const PHASE_3 = [
  ...PHASE_2,
  secret(2),
  rotation(3, 3),
  told("rotation.phase", { rotation: 1, phase: 3 }),
  beat(acked(3, 3), [2]),
];
const COMPLETE = [
  ...PHASE_3,
  rotation(3, 4, { state: "completed", open: undefined, lease: { owner: null, token: 1, expires_at: new Date(9e12) } }),
  version(2, "active"),
  version(1, "retired"),
  told("rotation.completed", { rotation: 1 }),
];

const registered = (there: boolean): Change => ({ of: "field", at: when(), registered: there });
const inPlace = (there: boolean): Change => ({ of: "renamed", at: when(), there });
const restored = (version: number, times: number): Change => ({
  ...(secret(version) as Change & { of: "secret" }),
  restored: times,
});
/** Phase 3 and the end, with the record still under version 1. */
const LEFT = [rotation(3, 3), told("rotation.phase", { rotation: 1, phase: 3 }), beat(acked(3, 3), [2])];

test("what a rotation could not see, and what was put back, is stale and no finding", () => {
  for (const [name, history] of Object.entries({
    unregistered: [...PHASE_2, registered(false), registered(true), ...LEFT],
    renamed: [...PHASE_1, inPlace(false), rotation(2, 2), PHASE_2.at(-2) as Change, PHASE_2.at(-1) as Change, ...LEFT],
    "put back": [...COMPLETE, restored(1, 1)],
    "put back, and replaced": [...COMPLETE, restored(1, 1), restored(1, 1)],
  }))
    expect({ name, ...judge(history) }).toEqual({ name, findings: [], stale: new Set(["1/1"]) });
});

test("a rotation as it should be breaks no rule", () => {
  for (const history of [START, PHASE_1, PHASE_2, PHASE_3, COMPLETE, [...COMPLETE, secret(2, 1)]])
    expect(brokenRules(history)).toEqual([]);
});

for (const [name, history, finding] of [
  ["a write under the new version in phase 1", [...PHASE_1, secret(2, 1)], "when only 1 might be"],
  [
    "a write under a version that a member lacks",
    [...PHASE_2, beat(acked(2, 2), [1], "b"), secret(2, 1)],
    "before b had loaded it",
  ],
  ["a write under the old version after it was left", [...COMPLETE, secret(1, 1)], "when only 2 might be"],
  [
    "a key destroyed under a record that was put back",
    [...COMPLETE, restored(1, 1), version(1, "destroyed")],
    "version 1 was destroyed with 1 records under it",
  ],
  [
    "a key destroyed under a record of a renamed collection",
    [...PHASE_2, inPlace(false), ...LEFT, version(1, "destroyed")],
    "version 1 was destroyed with 1 records under it",
  ],
  [
    "an old envelope that comes back by itself",
    [...COMPLETE, restored(1, 1), restored(2, 1), restored(1, 1)],
    "when only 2 might",
  ],
  ["ciphertext that changes", [...PHASE_2, secret(2, 0, "other")], "its ciphertext was changed"],
  ["a revision that goes back", [...START, secret(1, 1), secret(1, 0)], "revision 1 was lost"],
  [
    "a phase left before it was acknowledged",
    [...START, rotation(1, 1), rotation(2, 2), told("rotation.phase", { rotation: 1, phase: 2 })],
    "before a had acknowledged it",
  ],
  [
    "settling with a record left",
    [...PHASE_2, rotation(3, 3), told("rotation.phase", { rotation: 1, phase: 3 })],
    "still under version 1",
  ],
  [
    "a phase that is skipped",
    [...PHASE_1, rotation(3, 2), told("rotation.phase", { rotation: 1, phase: 3 })],
    "from phase 1 to 3",
  ],
  ["an epoch that goes back", [...PHASE_2, rotation(2, 1)], "its epoch went back"],
  [
    "a lease taken over too early",
    [...PHASE_1, rotation(1, 2, { lease: { owner: "cli b", token: 2, expires_at: new Date(9e12) } })],
    "two coordinators",
  ],
  [
    "a phase change by another than the lease's owner",
    [...PHASE_1, rotation(2, 2), told("rotation.phase", { rotation: 1, phase: 2 }, "cli z")],
    "two coordinators",
  ],
  ["a change without its audit event", [...PHASE_1, rotation(2, 2)], "the audit log tells another story"],
  [
    "an eviction of a living process",
    [...START, beat(null, [1]), told("process.evicted", { process: "a", name: "a" })],
    "while its own lease still ran",
  ],
] as const)
  test(`found: ${name}`, () => {
    expect(brokenRules([...history]).join("\n")).toContain(finding);
  });
