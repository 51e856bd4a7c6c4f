import { expect, test } from "bun:test";
import { Binary, type Document } from "mongodb";
import { type FieldEncryption, KekError, openFieldEncryption } from "../../src/index.ts";
import { type Forgery, whileForged } from "../harness/forgery.ts";
import { library, libraryConfig } from "../harness/library.ts";
import { run, stop, type TestInstall, testInstall, until } from "../harness/program.ts";
import {
  CALM,
  newestRotation,
  proveAll,
  rotating,
  SLOWLY,
  seededInstall,
  serveAll,
  versionStates,
} from "../harness/schedule.ts";

/** A living fleet among forgeries: a process says what it cannot read and fences itself; a swapped envelope opens nowhere. */

async function refusal(work: () => Promise<unknown>): Promise<KekError> {
  const thrown = await work().then(
    () => undefined,
    (error: unknown) => error,
  );
  if (thrown instanceof KekError) return thrown;
  throw new Error(`no KekError, but: ${String(thrown)}`);
}

const ENDED = {
  _id: 1,
  from: 1,
  to: 2,
  phase: 1,
  epoch: 5,
  state: "cancelled",
  lease: { owner: null, token: 1, expires_at: new Date(0) },
  started_at: new Date(0),
  started_by: "test",
  phase_times: {},
  fields: [],
  failed: [],
  fence: { versions: [], collections: [] },
};
const rotation = (set: Forgery["set"]): Forgery => ({ collection: "kek_rotations", id: 1, set });
const version = (set: Forgery["set"]): Forgery => ({ collection: "kek_versions", id: 1, set });

const MET: [string, Forgery, RegExp][] = [
  [
    "half a rotation",
    { collection: "kek_rotations", set: { _id: 2, open: true } },
    /kek_rotations: document 2: it has no/,
  ],
  ["a phase 4", rotation({ phase: 4, state: "running", open: true }), /kek_rotations: document 1: its phase is 4/],
  ["an epoch that goes back", rotation({ epoch: 3 }), /kek_rotations: .*its epoch went back from 5 to 3/],
  [
    "another state of the same epoch",
    rotation({ state: "running", open: true, phase: 2 }),
    /kek_rotations: .*it changed while its epoch stayed 5/,
  ],
  ["a canary that is text", version({ canary: "text" }), /kek_versions: document 1: its canary/],
  ["a retired version, and none active", version({ state: "retired" }), /kek_versions: no version is active/],
];

test("a living process that meets a forged document fences itself, says why, and continues when it is right again", async () => {
  const install = await testInstall();
  const serving = await install.serve("api-1", [1, 2], 1);
  const kek = await library(install, [1, 2], 1);
  await install.db.collection("kek_rotations").insertOne({ ...ENDED } as never);
  const address = /http:\/\/\S+?(?=,)/.exec(serving.stderr)?.[0];
  const ready = async () => await fetch(`${address}/readyz`);
  const place = { collection: "secrets", id: 1, field: "value" };
  const kept = await kek.encrypt("kept", place);
  const followed = async () =>
    (await install.db.collection("process_heartbeats").countDocuments({ "acked.epoch": ENDED.epoch })) === 2;
  await until("both follow the rotation that has ended", followed);
  const state = async () =>
    JSON.stringify([await versionStates(install), await install.db.collection("audit_log").countDocuments()]);
  const before = await state();
  for (const [what, forgery, words] of MET) {
    await whileForged(install, forgery, async () => {
      await until(`${what}: not ready`, async () => (await ready()).status === 503 && kek.problem !== undefined);
      const told = (await (await ready()).json()) as { reason: string };
      expect([what, told.reason]).toEqual([what, expect.stringMatching(words)]);
      const fenced = await refusal(() => kek.encrypt("never", place));
      expect([fenced.code, fenced.message]).toEqual(["fenced", expect.stringMatching(words)]);
      // What it holds, it still opens: no forged state takes a key away.
      expect((await kek.decrypt(kept, place)).toString()).toBe("kept");
    });
    await until(`${what}: ready again`, async () => (await ready()).status === 200 && kek.problem === undefined);
    expect((await kek.decrypt(await kek.encrypt("again", place), place)).toString()).toBe("again");
    expect([what, await state()]).toEqual([what, before]);
  }
  expect(serving.stderr).not.toMatch(/^\s+at /m);
  await kek.close();
  await stop(serving);
  expect((await serving.exited).code).toBe(0);
});

/** A second install whose KEKs have the very same bytes. */
async function twin({ keks }: TestInstall): Promise<{ other: TestInstall; kek: FieldEncryption }> {
  const other = await testInstall();
  Object.assign(other.keks, keks);
  return { other, kek: await library(other, [1, 2], 1, "twin") };
}

test("wraps, payloads and whole envelopes swapped between records, fields, collections and installs open nowhere", async () => {
  const install = await testInstall();
  const kek = await library(install, [1, 2], 1);
  const { kek: stranger } = await twin(install);
  const place = { collection: "secrets", id: 1, field: "value" };
  const mine = await kek.encrypt("mine", place);
  const strangers: [string, Document][] = [
    ["record", await kek.encrypt("a", { ...place, id: 2 })],
    ["field", await kek.encrypt("b", { ...place, field: "other" })],
    ["collection", await kek.encrypt("c", { ...place, collection: "others" })],
    ["install", await stranger.encrypt("d", place)],
    ["an earlier value of the same field", await kek.encrypt("e", place)],
  ];
  for (const [what, theirs] of strangers) {
    const { wrapped_dek, nonce, ciphertext } = theirs;
    const swaps: Document[] = [
      { ...mine, wrapped_dek },
      { ...mine, nonce, ciphertext },
      { ...mine, nonce },
      { ...mine, ciphertext },
    ];
    // A whole earlier envelope of the same field is genuine there: no AAD tells when.
    if (!what.startsWith("an earlier")) swaps.push(theirs);
    for (const swapped of swaps) {
      expect([what, (await refusal(() => kek.decrypt(swapped, place))).code]).toEqual([what, "decryption_failed"]);
    }
  }
  for (const changed of [{ kek_version: 2 }, { kek_version: 9 }, { provider: "pkcs11" }]) {
    const { code } = await refusal(() => kek.decrypt({ ...mine, ...changed }, place));
    expect(["decryption_failed", "envelope_invalid", "version_not_loaded"]).toContain(code);
  }
  const fake = { _bsontype: "Binary", sub_type: 0, position: 60 };
  expect((await refusal(() => kek.decrypt({ ...mine, wrapped_dek: fake }, place))).code).toBe("envelope_invalid");
  expect((await kek.decrypt(mine, place)).toString()).toBe("mine");
  expect((await refusal(() => kek.encrypt("x", { ...place, field: "$where" }))).code).toBe("usage");
  expect((await refusal(() => kek.encrypt("x", { ...place, collection: "kek_versions" }))).code).toBe("usage");
  await kek.close();
  await stranger.close();
});

test("a rotation names swapped wraps and moves none of them; swapped payloads are verify's to find", async () => {
  const install = await seededInstall(12);
  const { other, kek: stranger } = await twin(install);
  const secrets = install.db.collection<{ _id: number; value: Document }>("secrets");
  const storedAt = async (id: number) => (await secrets.findOne({ _id: id }))?.value as Document;
  const alien = await stranger.encrypt("secret 5", { collection: "secrets", id: 5, field: "value" });
  await stranger.close();
  expect(await other.db.collection("kek_install").countDocuments()).toBe(1);
  const [one, two, three, four] = await Promise.all([1, 2, 3, 4].map(storedAt));
  const intact = await secrets.find().toArray();
  const bad: [number, Document][] = [
    [1, { ...one, wrapped_dek: two?.["wrapped_dek"] }],
    [2, { ...two, wrapped_dek: one?.["wrapped_dek"] }],
    [3, four as Document],
    [5, alien],
    [6, { ...(await storedAt(6)), provider: "pkcs11" }],
    [7, { ...(await storedAt(7)), wrapped_dek: new Binary(Buffer.alloc(60), 0) }],
  ];
  for (const [_id, value] of bad) await secrets.replaceOne({ _id }, { value });
  // The wrap is right and the payload is another record's: a rotation changes no payload, and reads none.
  const payload = { ...(await storedAt(8)), nonce: three?.["nonce"], ciphertext: three?.["ciphertext"] };
  await secrets.replaceOne({ _id: 8 }, { value: payload });
  const swapped = await secrets.find({ _id: { $in: bad.map(([id]) => id) } }).toArray();

  const fleet = await serveAll(install, "a");
  const ran = await rotating(install, "--to-version=2").exited;
  expect([ran.code, ran.json.error.code]).toEqual([6, "incomplete"]);
  const failed = (await newestRotation(install))["failed"] as Document[];
  expect(failed.map(({ id }) => id).sort()).toEqual(bad.map(([id]) => `{"$numberInt":"${id}"}`).sort());
  for (const { id, reason } of failed)
    expect(reason).toMatch(id.includes('"6"') ? /provider is "pkcs11", not "env"/ : /does not open with KEK version 1/);
  expect(await secrets.find({ _id: { $in: bad.map(([id]) => id) } }).toArray()).toEqual(swapped);
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
  const verified = await run(["kek", "verify", "--records", "--json"], install.variables([1, 2], 2));
  expect([verified.code, verified.json.failed]).toEqual([6, bad.length + 1]);

  for (const { _id, value } of intact.filter(({ _id: id }) => bad.some(([each]) => each === id)))
    await secrets.replaceOne({ _id }, { value });
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  await stop(...fleet);
  const reader = await openFieldEncryption(libraryConfig(install, [2], 2, "reader"));
  try {
    for (const { _id, value } of await secrets.find().toArray()) {
      const open = () => reader.decrypt(value, { collection: "secrets", id: _id, field: "value" });
      if (_id === 8) expect((await refusal(open)).code).toBe("decryption_failed");
      else expect((await open()).toString()).toBe(`secret ${_id}`);
    }
  } finally {
    await reader.close();
  }
});

test("a coordinator that meets a forged document stops and gives its lease back; the same command then completes", async () => {
  const install = await seededInstall(60, CALM);
  const fleet = await serveAll(install, "a");
  const met: [string, Forgery, RegExp][] = [
    [
      "half a heartbeat",
      { collection: "process_heartbeats", set: { _id: "half" } },
      /process_heartbeats: document "half"/,
    ],
    [
      "half a field",
      { collection: "kek_fields", set: { _id: "a:b" } },
      /kek_fields: document "a:b": it has no collection/,
    ],
  ];
  for (const [what, forgery, words] of met) {
    const running = rotating(install, "--to-version=2", ...SLOWLY);
    await until(`${what}: phase 2`, async () => (await newestRotation(install))?.["phase"] === 2);
    const { collection, set } = forgery;
    await install.db.collection(collection).insertOne({ ...set } as never);
    const { code, json, stderr } = await running.exited;
    await install.db.collection(collection).deleteOne({ _id: set["_id"] as never });
    expect([what, code, json.error.code]).toEqual([what, 3, "document_invalid"]);
    expect(stderr).toMatch(words);
    expect(await newestRotation(install)).toMatchObject({ phase: 2, state: "running", lease: { owner: null } });
  }
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  await proveAll(install, [2], 60);
  await stop(...fleet);
});
