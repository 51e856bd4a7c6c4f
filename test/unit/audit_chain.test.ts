import { expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import fc from "fast-check";
import { type AuditEntry, canonicalJson, checkLink, GENESIS, link } from "../../src/audit/chain.ts";

const SECRET = "of the tests";
const entry = (at: number) => ({
  at: new Date(at),
  actor: "cli",
  event: "rotation.started" as const,
  data: { from: 1, to: 2 },
});

function chain(length: number): AuditEntry[] {
  const entries: AuditEntry[] = [];
  for (let at = 0; at < length; at += 1) entries.push(link(SECRET, entries.at(-1), entry(at)));
  return entries;
}

function faults(entries: AuditEntry[], secret = SECRET): number[] {
  return entries.flatMap((one, index) => checkLink(secret, entries[index - 1], one)?.seq ?? []);
}

test("an entry's mac is the HMAC of its canonical JSON", () => {
  const first = link(SECRET, undefined, entry(0));
  const text = `{"actor":"cli","at":"1970-01-01T00:00:00.000Z","data":{"from":1,"to":2},"event":"rotation.started","prev":"${GENESIS}","seq":1}`;
  expect(first.mac).toBe(createHmac("sha256", SECRET).update(text).digest("hex"));
});

test("a whole chain has no fault; a changed, missing, swapped or forged entry shows", () => {
  expect(faults(chain(20))).toEqual([]);
  const changed = chain(5);
  (changed[2] as AuditEntry).data = { from: 1, to: 3 };
  expect(faults(changed)).toEqual([3]);
  expect(faults(chain(5).toSpliced(2, 1))).toEqual([4]);
  expect(faults(chain(5).toSpliced(0, 1))).toEqual([2]);
  const swapped = chain(5);
  [swapped[1], swapped[2]] = [swapped[2] as AuditEntry, swapped[1] as AuditEntry];
  expect(faults(swapped).length).toBeGreaterThan(0);
  const forged = [...chain(3), link("another secret", chain(3).at(-1), entry(9))];
  expect(faults(forged)).toEqual([4]);
});

test("an entry written without a secret is told apart from a forged one", () => {
  const unkeyed = link("", undefined, entry(0));
  expect(checkLink(SECRET, undefined, unkeyed)?.reason).toContain("without AUDIT_SECRET");
});

test("canonical JSON does not depend on the order of keys", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
      const reversed = Object.fromEntries(Object.entries(value).reverse());
      expect(canonicalJson(reversed)).toBe(canonicalJson(value));
      expect(JSON.parse(canonicalJson(value))).toEqual(JSON.parse(JSON.stringify(value)));
    }),
  );
});
