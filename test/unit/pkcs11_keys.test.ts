import { beforeEach, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { codeOf, refusalOf } from "../harness/codes.ts";
import { CALL, CKR } from "../harness/token.ts";
import { canaryBy, INSTALL, tokensHere } from "../harness/tokens_here.ts";

/** The life of a KEK in its token, as far as one process sees it. `pkcs11-tool` says what is really there. */

const tokens = tokensHere();
const { shim } = tokens;
const LABEL = "certautopilot-kek-v3";
let label = "";
let count = 0;

beforeEach(() => {
  count += 1;
  label = `keys ${count}`;
  tokens.addToken(label);
});

/** The ids of the keys with a version's label. */
function ids(name = LABEL): string[] {
  const listed = tokens.tool(label, "--list-objects", "--type", "secrkey");
  return listed
    .split("Secret Key Object")
    .filter((object) => new RegExp(`label: +${name}\n`).test(object))
    .map((object) => /ID: +([0-9a-f]+)/.exec(object)?.[1] ?? "");
}

/** A key that this program did not make. */
function foreign(id: string, ...words: string[]): void {
  const type = words.includes("--key-type") ? [] : ["--key-type", "AES:32"];
  tokens.tool(label, "--keygen", ...type, "--label", LABEL, "--id", id, "--sensitive", ...words);
}

describe("making a key", () => {
  test("twice gives the same key, once made, with what a KEK must be", async () => {
    const token = await tokens.open(label);
    expect(await token.available([1, 2, 3])).toEqual([]);
    const made = await token.make(3, INSTALL);
    expect(made).toEqual({ label: LABEL, id: expect.stringMatching(/^[0-9a-f]{32}$/), mechanism: "CKM_AES_GCM" });
    expect(await token.make(3, INSTALL)).toEqual(made);
    expect(await token.available([1, 2, 3])).toEqual([3]);
    await token.close();
    const again = await tokens.open(label);
    expect(await again.make(3, INSTALL)).toEqual(made);
    expect(ids()).toEqual([made.id]);
    const shown = tokens.tool(label, "--list-objects", "--type", "secrkey");
    expect(shown).toMatch(/AES length 32/);
    expect(shown).toMatch(/Usage: +encrypt, decrypt\n/);
    expect(shown).toMatch(/Access: +sensitive, always sensitive, never extractable, local\n/);
  });

  test("is refused where the label is taken, by another install or by hand", async () => {
    const token = await tokens.open(label);
    const theirs = await token.make(3, "another install");
    const refusal = await refusalOf(() => token.make(3, INSTALL));
    expect(refusal?.code).toBe("refused");
    expect(refusal?.message).toContain(theirs.id);
    foreign("0042");
    expect(await codeOf(() => token.make(3, INSTALL))).toBe("refused");
    expect(await codeOf(() => token.make(3, "another install"))).toBe("refused");
    expect(ids().sort()).toEqual([theirs.id, "0042"].sort());
  });

  test("is refused on a fresh install where any key has the label, its own too", async () => {
    const token = await tokens.open(label);
    await token.refuseTaken(3);
    await token.make(3, INSTALL);
    expect(await codeOf(() => token.refuseTaken(3))).toBe("refused");
    await token.refuseTaken(4);
  });

  test("never makes again what the install knows: it is missing", async () => {
    const other = await tokens.openWith(label, [7]);
    const proof = await canaryBy(other, 7);
    const refusal = await refusalOf(() => other.tidy(3, INSTALL, "ab".repeat(16), proof));
    expect(refusal?.code).toBe("key_missing");
    expect(refusal?.message).toContain("ab".repeat(16));
    await other.make(3, INSTALL);
    expect(await codeOf(() => other.tidy(3, INSTALL, "ab".repeat(16), proof))).toBe("key_mismatch");
    expect(ids()).toHaveLength(1);
  });

  test("takes out what an interrupted run of this install left, and keeps the key that is recorded", async () => {
    const token = await tokens.openWith(label, [3]);
    const proof = await canaryBy(token, 3);
    const known = (await token.describe(3))?.id as string;
    const left = `${known.slice(0, 16)}${"0".repeat(16)}`;
    foreign(left);
    const invalid = await refusalOf(() => token.load(3));
    expect(invalid?.code).toBe("key_invalid");
    expect(invalid?.hint).toContain("pkcs11-init");
    // Another key under the recorded id does not open the canary: then nothing is destroyed.
    expect(await codeOf(() => token.tidy(3, INSTALL, left, proof))).toBe("key_mismatch");
    expect(ids().sort()).toEqual([left, known].sort());
    await token.tidy(3, INSTALL, known, proof);
    expect(ids()).toEqual([known]);
  });

  test("destroys nothing that is recorded, also where a restored backup stands beside it", async () => {
    const token = await tokens.openWith(label, [3]);
    const proof = await canaryBy(token, 3);
    const known = (await token.describe(3))?.id as string;
    foreign(known);
    expect(await codeOf(() => token.tidy(3, INSTALL, known, proof))).toBe("key_invalid");
    expect(await codeOf(() => token.make(3, INSTALL))).toBe("refused");
    expect(ids()).toEqual([known, known]);
  });

  test("asked for six times at once makes one key", async () => {
    const token = await tokens.open(label, { sessions: 4 });
    shim.set({ latencyUs: 1000 });
    const made = await Promise.all(Array.from({ length: 6 }, () => token.make(3, INSTALL)));
    expect(new Set(made.map(({ id }) => id)).size).toBe(1);
    expect(ids()).toEqual([made[0]?.id as string]);
  });
});

describe("a key is not used", () => {
  for (const [what, id, words, why] of [
    ["of 128 bits", "01", ["--key-type", "AES:16"], /16 bytes/],
    ["that can leave the token", "02", ["--extractable"], /CKA_EXTRACTABLE/],
  ] as const) {
    test(`${what}`, async () => {
      foreign(id, ...words);
      const token = await tokens.open(label);
      const refusal = await refusalOf(() => token.load(3));
      expect(refusal?.code).toBe("key_invalid");
      expect(refusal?.message).toMatch(why);
      expect(await codeOf(() => token.wrap(randomBytes(32), randomBytes(4), 3))).toBe("version_not_loaded");
    });
  }

  test("that vanished, whatever was loaded before", async () => {
    const token = await tokens.openWith(label, [3]);
    const proof = await canaryBy(token, 3);
    tokens.tool(label, "--delete-object", "--type", "secrkey", "--label", LABEL);
    shim.set({ drops: 1 });
    expect(await codeOf(() => token.check(3))).toBe("key_missing");
    expect(await codeOf(() => token.unwrap(proof.wrap, proof.aad, 3))).toBe("key_missing");
  });
});

describe("destroying a key", () => {
  test("takes the install's out of the token, and again finds nothing", async () => {
    const token = await tokens.openWith(label, [3, 4]);
    const proof = await canaryBy(token, 3);
    expect(await codeOf(() => token.destroy(3, proof, { keepCopy: true }))).toBe("usage");
    expect(ids()).toHaveLength(1);
    expect(await token.destroy(3, proof, { keepCopy: false })).toMatchObject({
      destroyed: [`the key ${LABEL} in token "${label}"`],
      remaining: [],
    });
    expect(ids()).toEqual([]);
    expect(ids("certautopilot-kek-v4")).toHaveLength(1);
    expect(await codeOf(() => token.unwrap(proof.wrap, proof.aad, 3))).toBe("version_not_loaded");
    expect(await token.destroy(3, proof, { keepCopy: false })).toMatchObject({
      destroyed: [],
      remaining: [],
      advice: expect.stringContaining("was found"),
    });
  });

  test("leaves another key of its label alone, and says which", async () => {
    const token = await tokens.openWith(label, [3]);
    const proof = await canaryBy(token, 3);
    foreign("0042");
    const outcome = await token.destroy(3, proof, { keepCopy: false });
    expect(outcome.destroyed).toHaveLength(1);
    expect(outcome.remaining).toEqual([expect.stringContaining("0042")]);
    expect(ids()).toEqual(["0042"]);
  });

  test("survives calls that fail", async () => {
    const token = await tokens.openWith(label, [3]);
    const proof = await canaryBy(token, 3);
    foreign("0042");
    shim.set({ failPpm: 10_000 });
    const { remaining } = await token.destroy(3, proof, { keepCopy: false });
    expect(remaining).toHaveLength(1);
    expect(ids()).toEqual(["0042"]);
  });
});

test("a key that is made extractable and may not be destroyed is named, with the way to remove it", async () => {
  const token = await tokens.open(label);
  shim.set({ extractable: 1, faultCall: CALL.destroy, faultCode: CKR.ACTION_PROHIBITED, faultPpm: 1_000_000 });
  const refusal = await refusalOf(() => token.make(77, INSTALL));
  expect(refusal?.code).toBe("hsm_unfit");
  expect(refusal?.message).toMatch(/kek-v77 is destroyed .*CKR_ACTION_PROHIBITED.*stays in the token/);
  expect(refusal?.hint).toMatch(/own tool.*label certautopilot-kek-v77, id [0-9a-f]{32}/);
});
