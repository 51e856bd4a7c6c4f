import { expect, test } from "bun:test";
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type HsmInstall, hsmInstall, keksIn, keysIn, seededHsm } from "../harness/hsm_install.ts";
import { run } from "../harness/program.ts";
import { eventsAfter } from "../harness/refusal.ts";
import { CKR, type Shim } from "../harness/token.ts";

/**
 * `kek pkcs11-init` and `kek remove` are killed at, or fail at, their n-th call to the token, for every n: the same command
 * afterwards finishes, with one key of the name and one version staged, or with the key gone and the version destroyed.
 */

const INIT = ["kek", "pkcs11-init", "--version=1"];
const LABEL = "certautopilot-kek-v1";
/** A lease so short that the claim of a killed run is over when the next one begins. */
const SHORT = { beatMs: 40, leaseMs: 300, evictionMs: 900, drainMs: 0 };
const LONG = process.env["CERTAUTOPILOT_TEST_LONG"] !== undefined;
/** Where nothing is done between two calls, not every one of them is tried; by `./scripts/test --long` it is. */
const STRIDE = LONG ? 1 : 12;
/** So many installs at once. */
const LANES = 3;

type Orders = Parameters<Shim["set"]>[0];
const NONE: Orders = { killIn: 0, killAfterIn: 0, failIn: 0, generated: 0, failed: 0 };

/** What can be seen of a run that has ended: it tells the calls apart between which something was done. */
async function stateOf({ db, token }: HsmInstall): Promise<string> {
  const [locks, versions, claims] = await Promise.all(
    ["kek_install", "kek_versions", "kek_claims"].map((name) => db.collection(name).countDocuments()),
  );
  return JSON.stringify({ generated: token.shim.get("generated"), keys: keksIn(token), locks, versions, claims });
}

async function makeFresh({ db, token }: HsmInstall): Promise<void> {
  token.shim.set(NONE);
  for (const name of ["kek_install", "kek_versions", "kek_claims", "audit_log"])
    await db.collection(name).deleteMany({});
  for (const label of keksIn(token)) token.tool("--delete-object", "--type", "secrkey", "--label", label);
}

async function expectOne({ db, token }: HsmInstall, n: number): Promise<void> {
  const versions = await db.collection("kek_versions").find().toArray();
  const keys = keysIn(token).filter(({ label }) => label === LABEL);
  expect({ n, versions: versions.length, keys: keys.length }).toEqual({ n, versions: 1, keys: 1 });
  expect(versions[0]).toMatchObject({ _id: 1 as never, state: "staged", key_label: LABEL });
  expect(versions[0]?.["key_id"].toString("hex")).toBe(keys[0]?.id as string);
  expect(await eventsAfter(db, 0)).toEqual(["install.locked", "version.staged"]);
}

/** @returns what was to be seen afterwards; undefined when the command had ended before its n-th call. */
type Trial = (install: HsmInstall, n: number) => Promise<string | undefined>;

/**
 * Tries every n, or every STRIDE-th and those between two that left something different behind.
 * @param fresh brings an install to where each trial begins. @returns how many were tried.
 */
async function sweep(trial: Trial, make = () => hsmInstall(SHORT), fresh = makeFresh): Promise<number> {
  const installs = await Promise.all(Array.from({ length: LANES }, make));
  const seen = new Map<number, string | undefined>();
  const tryAll = async (numbers: number[]) => {
    const left = numbers.filter((n) => !seen.has(n));
    await Promise.all(
      installs.map(async (install) => {
        for (let n = left.shift(); n !== undefined; n = left.shift()) {
          await fresh(install);
          seen.set(n, await trial(install, n));
        }
      }),
    );
  };
  const last = () => Math.max(...seen.keys());
  for (let n = 1; seen.size === 0 || seen.get(last()) !== undefined; n += STRIDE * LANES) {
    await tryAll(Array.from({ length: LANES }, (_, worker) => n + worker * STRIDE));
  }
  const tried = [...seen.keys()].sort((a, b) => a - b);
  const between = tried.flatMap((n, index) => {
    const next = tried[index + 1];
    if (next === undefined || seen.get(n) === seen.get(next)) return [];
    return Array.from({ length: next - n - 1 }, (_, offset) => n + 1 + offset);
  });
  await tryAll(between);
  return [...seen.values()].filter((state) => state !== undefined).length;
}

function killed(order: "killIn" | "killAfterIn"): Trial {
  return async (install, n) => {
    const { shim } = install.token;
    shim.set({ [order]: n });
    const first = await run(INIT, install.variables());
    const state = await stateOf(install);
    shim.set(NONE);
    if (first.code !== null) expect({ n, code: first.code }).toEqual({ n, code: 0 });
    const again = await run(INIT, install.variables());
    const error = again.stderr.match(/error:.*/)?.[0];
    expect({ n, state, code: again.code, error }).toEqual({ n, state, code: 0, error: undefined });
    await expectOne(install, n);
    return first.code === null ? state : undefined;
  };
}

test("killed before its n-th call", async () => expect(await sweep(killed("killIn"))).toBeGreaterThan(20));

test("killed after its n-th call", async () => expect(await sweep(killed("killAfterIn"))).toBeGreaterThan(20));

for (const code of ["SESSION_HANDLE_INVALID", "GENERAL_ERROR"] as const) {
  test(`its n-th call fails once with ${code}: it continues automatically`, async () => {
    const gaveUp: unknown[] = [];
    const tried = await sweep(async (install, n) => {
      const { shim } = install.token;
      shim.set({ failIn: n, failCode: CKR[code] });
      const ran = await run(INIT, install.variables());
      const state = shim.get("failed") > 0 ? await stateOf(install) : undefined;
      if (ran.code !== 0 || ran.stderr !== "") gaveUp.push({ n, code: ran.code, stderr: ran.stderr });
      else await expectOne(install, n);
      return state;
    });
    expect(gaveUp).toEqual([]);
    expect(tried).toBeGreaterThan(10);
  });
}

const REMOVE = ["kek", "remove", "--version=1", "--yes"];

test("remove is killed at its n-th call", async () => {
  const make = async () => {
    const install = await seededHsm(3);
    const { code, stderr } = await install.kek(["rotate", "--to-version=2"], 2);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    const tokens = join(install.token.directory, "tokens");
    cpSync(tokens, `${tokens}.whole`, { recursive: true });
    return install;
  };
  const versions = ({ db }: HsmInstall) => db.collection<{ _id: number; state: string }>("kek_versions");
  const retire = async (install: HsmInstall) => {
    install.token.shim.set(NONE);
    await versions(install).updateOne({ _id: 1 }, { $set: { state: "retired" }, $unset: { destroyed_at: 1 } });
    const tokens = join(install.token.directory, "tokens");
    rmSync(tokens, { recursive: true });
    cpSync(`${tokens}.whole`, tokens, { recursive: true });
  };
  const trial: Trial = async (install, n) => {
    const { shim } = install.token;
    const stateNow = async () =>
      JSON.stringify([(await versions(install).findOne({ _id: 1 }))?.state, keksIn(install.token)]);
    shim.set({ killIn: n });
    const first = await run(REMOVE, install.variables(2));
    const state = await stateNow();
    shim.set(NONE);
    if (first.code !== null) expect({ n, code: first.code }).toEqual({ n, code: 0 });
    // Nobody can need a key that is gone: the version was marked before.
    if (!keksIn(install.token).includes(LABEL))
      expect({ n, state }).toEqual({ n, state: '["destroyed",["certautopilot-kek-v2"]]' });
    const again = await run(REMOVE, install.variables(2));
    const error = again.stderr.match(/error:.*/)?.[0];
    expect({ n, state, code: again.code, error }).toEqual({ n, state, code: 0, error: undefined });
    expect(await stateNow()).toBe('["destroyed",["certautopilot-kek-v2"]]');
    return first.code === null ? state : undefined;
  };
  expect(await sweep(trial, make, retire)).toBeGreaterThan(10);
});
