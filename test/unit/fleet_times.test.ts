import { expect, test } from "bun:test";
import type { AnnouncedTimes } from "../../src/protocol/documents.ts";
import { evictionMsOf, leaseMsOf } from "../../src/protocol/fleet_times.ts";
import { type Member, memberName, silentForMs } from "../../src/protocol/member.ts";
import { member, TIMES } from "../harness/facts.ts";

/** Which times apply to a member, and how long it has been silent. */

const announcing = (over: Partial<AnnouncedTimes>): Member =>
  member({ fleet: { beat_ms: 5000, lease_ms: 30_000, eviction_ms: 60_000, drain_ms: 5000, ...over } });

/** A member of a release that announces no times. */
function announcingNone(): Member {
  const { fleet: _, ...rest } = member();
  return rest;
}

test("a member goes by the lease that it announces, else by the reader's", () => {
  expect(leaseMsOf(announcing({ lease_ms: 10_000 }), TIMES)).toBe(10_000);
  expect(leaseMsOf(announcing({ lease_ms: 90_000 }), TIMES)).toBe(90_000);
  expect(leaseMsOf(announcingNone(), TIMES)).toBe(30_000);
});

test("a member is evicted after the longer of both eviction times", () => {
  expect(evictionMsOf(announcing({ eviction_ms: 90_000 }), TIMES)).toBe(90_000);
  expect(evictionMsOf(announcing({ eviction_ms: 10_000 }), TIMES)).toBe(60_000);
  expect(evictionMsOf(announcingNone(), TIMES)).toBe(60_000);
  expect(evictionMsOf(announcingNone(), { ...TIMES, evictionMs: 0 })).toBe(0);
});

test("a member is silent for as long as either clock says", () => {
  expect(silentForMs(member({ age_ms: 500, watched_ms: 90_000 }))).toBe(90_000);
  expect(silentForMs(member({ age_ms: 90_000, watched_ms: 500 }))).toBe(90_000);
  expect(silentForMs(member({ age_ms: 0 }))).toBe(0);
});

test("a member's name has its instance, role, host and process id", () => {
  expect(memberName(member())).toBe("api-1 (api, host-a, pid 42)");
});
