import { Binary } from "mongodb";
import type { FleetTimes } from "../../src/config/config.ts";
import type { Phase, RotationDoc, VersionDoc } from "../../src/protocol/documents.ts";
import type { Member } from "../../src/protocol/member.ts";
import type { StatusFacts } from "../../src/status/status_facts.ts";
import { NO_FIELDS } from "../../src/store/field_facts.ts";

/** StatusFacts about an install, made up: healthy unless told otherwise. */

export const TIMES: FleetTimes = { beatMs: 5000, leaseMs: 30_000, evictionMs: 60_000, drainMs: 5000 };
export const DAY = 86_400_000;
/** When the facts are looked at. */
export const NOW = new Date("2026-05-01T12:00:00Z");
export const ago = (ms: number) => new Date(NOW.getTime() - ms);

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

/** The same, named after a number, at version 1 in all it says. */
export function steady(number: number, over: Partial<Member> = {}): Member {
  return member({ _id: `member-${number}`, instance_name: `api-${number}`, pid: number, current_version: 1, ...over });
}

/** A version first known ten days ago, and in its state since the day after. */
export function version(_id: number, state: VersionDoc["state"], over: Partial<VersionDoc> = {}): VersionDoc {
  return {
    _id,
    provider: "env",
    state,
    canary: new Binary(new Uint8Array(60)),
    canary_digest: new Binary(new Uint8Array(32)),
    wraps: 1000,
    staged_at: ago(10 * DAY),
    ...(state === "staged" ? {} : { activated_at: ago(9 * DAY) }),
    ...(state === "retired" || state === "destroyed" ? { retired_at: ago(8 * DAY) } : {}),
    ...(state === "destroyed" ? { destroyed_at: ago(7 * DAY) } : {}),
    ...over,
  };
}

/** A rotation 1 → 2 that is led, a minute old, 40 of 100 records moved where it is in phase 2. */
export function rotation(phase: Phase, over: Partial<RotationDoc> = {}): RotationDoc {
  const counted = { field: "secrets:value", done: 40, remaining: 60, failed: 0 };
  return {
    _id: 3,
    open: true,
    from: 1,
    to: 2,
    phase,
    epoch: 7,
    state: "running",
    lease: { owner: "cli host-a pid 9", token: 1, expires_at: new Date(NOW.getTime() + 20_000) },
    started_at: ago(60_000),
    started_by: "cli host-a pid 9",
    phase_times: {
      "1": ago(60_000),
      ...(phase > 1 ? { "2": ago(50_000) } : {}),
      ...(phase > 2 ? { "3": ago(5000) } : {}),
    },
    fields: phase === 1 ? [] : [counted],
    failed: [],
    fence: { versions: [], collections: [] },
    ...over,
  };
}

/** What a process acknowledges that follows `rotation`. */
export function following({ _id, epoch, phase }: RotationDoc): Member["acked"] {
  return { rotation: _id, epoch, phase };
}

/** Three processes at version 1, version 2 staged. */
export function facts(over: Partial<StatusFacts> = {}): StatusFacts {
  return {
    now: NOW,
    install: {
      _id: "kek_install",
      provider: "env",
      install_id: "6b0b4f0a-3a55-4b5c-9d7e-0d5d3a2f1c11",
      locked_at: ago(20 * DAY),
      locked_by: "service",
    },
    state: { versions: [version(1, "active"), version(2, "staged")], rotation: undefined },
    roster: [steady(1), steady(2), steady(3)],
    versionCounts: { rows: [{ field: "secrets:value", version: "1", count: 100 }], at: NOW },
    fields: NO_FIELDS,
    history: [],
    audit: { entries: [], chain: { state: "whole", checked: 0, fault: null } },
    times: TIMES,
    rotationPeriodMs: 365 * DAY,
    ...over,
  };
}

/** The same while a rotation is open, and everybody follows it but the last `late`. */
export function rotating(
  doc: RotationDoc,
  { late = 0, ...over }: Partial<StatusFacts> & { late?: number } = {},
): StatusFacts {
  const roster = [1, 2, 3].map((number) =>
    steady(number, {
      current_version: 2,
      write_version: doc.phase === 1 ? doc.from : doc.to,
      acked: number > 3 - late ? { rotation: doc._id, epoch: doc.epoch - 1, phase: 1 } : following(doc),
    }),
  );
  return facts({ state: { versions: [version(1, "active"), version(2, "staged")], rotation: doc }, roster, ...over });
}
