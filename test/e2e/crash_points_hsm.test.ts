import { expect, setDefaultTimeout, test } from "bun:test";
import { type Armed, inLanes, take } from "../harness/crash.ts";
import { TIMES } from "../harness/crash_install.ts";
import { type HsmInstall, hsmInstall, keksIn, keysIn, payloads, proveHsm, seededHsm } from "../harness/hsm_install.ts";
import { eventsAfter } from "../harness/refusal.ts";
import { newestRotation, versionStates } from "../harness/schedule.ts";

/** Keys in a token: pkcs11-init, rotate and remove are killed between any two of their writes, and again in the recovery. */

/** Most of it is waiting for leases and for transactions of the dead; a busy machine adds to that. */
setDefaultTimeout(600_000);

const INIT = ["kek", "pkcs11-init", "--version=1", "--json"];
const ROTATE = ["kek", "rotate", "--to-version=2", "--batch-size=2", "--json"];
const REMOVE = ["kek", "remove", "--version=1", "--yes", "--json"];
const LABEL = (version: number) => `certautopilot-kek-v${version}`;

/** The command dies at the first point, then at the second, and then it is left alone. */
async function thrice(install: HsmInstall, words: string[], [at, again]: [Armed, Armed], current?: number) {
  const variables = install.variables(current);
  await take({ words, dies: at }, variables);
  await take({ words, dies: again }, variables);
  return await take({ words }, variables);
}

function named(pairs: [Armed, Armed][]): Record<string, [Armed, Armed]> {
  return Object.fromEntries(pairs.map((pair) => [pair.join(", "), pair]));
}

const MADE: [Armed, Armed][] = [
  ["collections.ensured", "lock.inserted"],
  ["lock.written", "claim.taken"],
  ["key.generated", "key.made"],
  ["key.made", "canary.made"],
  ["canary.made", "version.inserted"],
  ["stage.done", "collections.ensured"],
  ["claim.dropped", "collections.ensured"],
];

test("pkcs11-init: one key of the label, one version, every event once, and the key is of use", async () => {
  const wrong = await inLanes(named(MADE), async (pair) => {
    const install = await hsmInstall({ leaseMs: 3000, evictionMs: 6000 });
    await thrice(install, INIT, pair);
    const keys = keysIn(install.token).filter(({ label }) => label.startsWith("certautopilot"));
    expect(keys.map(({ label }) => label)).toEqual([LABEL(1)]);
    const versions = await install.db.collection("kek_versions").find().toArray();
    expect(versions).toMatchObject([{ _id: 1 as never, state: "staged", key_label: LABEL(1) }]);
    expect(versions[0]?.["key_id"].toString("hex")).toBe(keys[0]?.id as string);
    expect(await install.db.collection("kek_install").countDocuments()).toBe(1);
    expect(await eventsAfter(install.db, 0)).toEqual(["install.locked", "version.staged"]);
    const service = await install.service(1);
    expect(await service.ask({ seed: 3 })).toEqual({ seeded: 3 });
    await service.leave();
    await proveHsm(install, 1, 3);
  });
  expect(wrong).toEqual({});
});

const ROTATED: [Armed, Armed][] = [
  ["batch.wrapped", "batch.written"],
  ["complete.retired", "complete.retired"],
];
const COUNT = 6;

test("rotate and remove: every record at the new key, the old one gone, the new one there once", async () => {
  const wrong = await inLanes(named(ROTATED), async (pair) => {
    const install = await seededHsm(COUNT, [2], TIMES);
    const before = await payloads(install);
    await thrice(install, ROTATE, pair, 2);
    expect(await newestRotation(install)).toMatchObject({ to: 2, state: "completed" });
    expect(keksIn(install.token)).toEqual([LABEL(1), LABEL(2)]);
    await thrice(install, REMOVE, ["remove.marked", "key.destroyed"], 2);
    expect(await versionStates(install)).toEqual({ "1": "destroyed", "2": "active" });
    expect(keksIn(install.token)).toEqual([LABEL(2)]);
    expect(await payloads(install)).toEqual(before);
    await proveHsm(install, 2, COUNT);
    const verify = await take({ words: ["kek", "verify", "--json"], exits: 3 }, install.variables(2));
    expect(verify.json).toMatchObject({ problems: [{ message: "no process is in the fleet" }] });
  });
  expect(wrong).toEqual({});
});
