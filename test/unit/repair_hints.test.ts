import { expect, test } from "bun:test";
import { Binary } from "bson";
import { complaintOf } from "../../src/cli/records_report.ts";
import { readEnvelope } from "../../src/envelope/envelope.ts";
import { saysPlaintext } from "../../src/envelope/not_envelope.ts";
import type { KekError } from "../../src/errors/errors.ts";
import { repairOf, staleEnvelopeProblems } from "../../src/protocol/stale_envelopes.ts";

/** Plaintext in a field is written again, never "restored": a backup has the same plaintext. A damaged envelope can be restored. */

const BACKUP = /from a backup/;
const AGAIN = /write the value again through the library or the API/;

function faultOf(stored: unknown): KekError {
  try {
    readEnvelope(stored, "env");
  } catch (thrown) {
    return thrown as KekError;
  }
  throw new Error("it was read");
}

test("what was never encrypted is told from an envelope that was damaged", () => {
  const plaintext = ["secret", 5, true, new Date(), Buffer.from("x"), new Binary(Buffer.from("x")), { pin: 1 }];
  for (const stored of plaintext) {
    const { code, message, hint } = faultOf(stored);
    expect([code, saysPlaintext(message)]).toEqual(["envelope_invalid", true]);
    expect(hint).toMatch(AGAIN);
    expect(hint).not.toMatch(BACKUP);
  }
  for (const stored of [null, undefined, [], { kek_version: 1 }, { format: 1, provider: "env", kek_version: "1" }]) {
    const { code, message, hint } = faultOf(stored);
    expect([code, saysPlaintext(message)]).toEqual(["envelope_invalid", false]);
    expect(hint).toMatch(BACKUP);
  }
});

test("kek verify --records says of which kind the records are", () => {
  const findings = { plain: faultOf("secret").message, damaged: faultOf({ kek_version: 1 }).message };
  const report = (failed: number, ...kinds: (keyof typeof findings)[]) => {
    const bad = kinds.map((kind, i) => ({ collection: "c", path: "p", id: String(i), reason: findings[kind] }));
    const rest = { records: 9, opened: 9 - failed, stale_envelopes: [], stale_records: [], resumed: null };
    const complaint = complaintOf({ ...rest, failed, bad });
    return [complaint?.message, complaint?.hint];
  };
  expect(report(1, "plain")).toEqual([
    "1 value is plaintext, not an envelope",
    "write the value again through the library or the API, which encrypt it",
  ]);
  expect(report(2, "plain", "plain")[0]).toBe("2 values are plaintext, not envelopes");
  const [damaged, restore] = report(1, "damaged");
  expect(damaged).toBe("1 envelope does not open");
  expect(restore).toMatch(BACKUP);
  const [both, each] = report(3, "plain", "damaged", "damaged");
  expect(both).toBe("3 envelopes do not open, and 1 of them is plaintext");
  expect(each).toMatch(BACKUP);
  expect(each).toMatch(AGAIN);
  expect(report(9, "plain", "plain")[0]).toBe(
    "9 envelopes do not open, and 2 of them are plaintext (of the 2 that are listed)",
  );
});

test("values without a kek_version are no envelopes at a version; what has a wrong one is a damaged envelope", () => {
  const plain = { field: "users:pin", version: "none", count: 2 };
  const [problem] = staleEnvelopeProblems({
    versionCounts: [plain],
    versions: [{ _id: 1, state: "active" }],
    from: 1,
    to: 1,
  });
  expect(problem?.message).toBe("2 values of users:pin have no kek_version: plaintext, or a damaged envelope");
  expect(problem?.hint).toBe(repairOf(plain));
  expect(problem?.hint).toMatch(/kek verify --records names them\. Where it is plaintext, write the value again/);
  const damaged = repairOf({ ...plain, version: '"1"' });
  expect(damaged).toMatch(/damaged: find them by that kek_version/);
  expect(damaged).toMatch(BACKUP);
});
