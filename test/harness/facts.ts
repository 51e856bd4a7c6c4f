import type { Member } from "../../src/store/heartbeats.ts";

/** A healthy member of a fleet at version 1 that is ready for 2, with these facts changed. */
export function member(over: Partial<Member> = {}): Member {
  return {
    _id: "11111111-2222-4333-8444-555555555555",
    role: "api",
    host: "host-a",
    pid: 42,
    instance_name: "api-1",
    provider: "env",
    loaded: [1, 2],
    available: [],
    problems: [],
    current_version: 2,
    write_version: 1,
    acked: { rotation: null, epoch: 0, phase: 0 },
    fleet: { beat_ms: 5000, lease_ms: 30_000, eviction_ms: 60_000, drain_ms: 5000 },
    started_at: new Date(0),
    updated_at: new Date(0),
    age_ms: 100,
    ...over,
  };
}
