import { expect, test } from "bun:test";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Binary, type Document, Double, EJSON, Long, ObjectId, Timestamp, UUID } from "bson";
import { apiClient, apiToken, base64, expectProblemDocument } from "../harness/api.ts";
import { hsmInstall, made } from "../harness/hsm_install.ts";
import { library } from "../harness/library.ts";
import { type Runtime, run, stop, testInstall } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** The API of `serve`: what it seals, a driver stores as it is, and the library opens; and the other way round. */

const directory = scratchDirectory();

/** Each `_id` as a driver holds it. */
const IDS: unknown[] = [
  new ObjectId(),
  new UUID(),
  new Binary(Buffer.from("any bytes"), 0),
  7,
  -2_147_483_648,
  Long.fromString("9007199254740993"),
  new Double(5),
  5.5,
  "text with \u{1F511} and \u0000",
  "",
  true,
  new Date(1_700_000_000_123),
  new Timestamp({ t: 5, i: 4_294_967_295 }),
  { b: 1, a: { list: [new ObjectId(), Long.fromNumber(3), "x", null], at: new Date(0) } },
];

for (const runtime of ["binary", "deno"] as Runtime[]) {
  test(`what the API seals a driver stores as it is and the library opens, and the other way round (${runtime})`, async () => {
    const install = await testInstall();
    const { token, variables } = apiToken(directory);
    const serving = await install.serve("api-1", [1], 1, variables, runtime);
    const api = apiClient(serving, token);
    const ours = await library(install, [1], 1);
    const place = { collection: "records", field: "deep.secret" };
    const records = install.db.collection<Document>("records");
    for (const [index, id] of IDS.entries()) {
      // A service in another language has its _id as extended JSON from its own driver.
      const json = JSON.parse(EJSON.stringify({ id }, { relaxed: false })).id;
      const text = `value ${index}`;
      const sealed = await api.post("encrypt", { ...place, id: json, plaintext: base64(text) });
      expect({ id: json, status: sealed.status }).toEqual({ id: json, status: 200 });
      await records.insertOne({
        _id: id as never,
        deep: { secret: EJSON.deserialize(sealed.body.envelope, { relaxed: false }) },
      });
      const stored = await records.findOne({ _id: id as never }, { promoteValues: false });
      expect(String(await ours.decrypt(stored?.["deep"].secret, { ...place, id: stored?.["_id"] }))).toBe(text);

      const theirs = await ours.encrypt(`${text} back`, { ...place, id });
      for (const relaxed of [false, true]) {
        const envelope = EJSON.serialize(theirs as unknown as Document, { relaxed });
        const opened = await api.post("decrypt", { ...place, id: json, envelope });
        expect(opened.body).toEqual({ plaintext: base64(`${text} back`) });
      }
    }
    expect(await api.post("decrypt", await bytesBack(api, new Uint8Array(8 * 1024 * 1024)))).toMatchObject({
      status: 200,
    });
    expect(await api.post("decrypt", await bytesBack(api, new Uint8Array(0)))).toMatchObject({
      body: { plaintext: "" },
    });
    await stop(serving);
  });
}

async function bytesBack(api: ReturnType<typeof apiClient>, bytes: Uint8Array) {
  const place = { collection: "records", id: 1, field: "size" };
  const sealed = await api.post("encrypt", { ...place, plaintext: base64(bytes) });
  expect(sealed.status).toBe(200);
  return { ...place, ...sealed.body };
}

test("a batch keeps its order, and an item that fails does not fail the others", async () => {
  const install = await testInstall();
  const { token, variables } = apiToken(directory);
  const serving = await install.serve("api-1", [1], 1, variables);
  const api = apiClient(serving, token);
  const place = (id: number) => ({ collection: "records", id, field: "value" });
  const ids = Array.from({ length: 1000 }, (_, id) => id);
  const sealed = await api.post("encrypt", {
    items: ids.map((id) => ({ ...place(id), plaintext: base64(`v ${id}`) })),
  });
  expect(sealed.body.items).toHaveLength(1000);
  const items = ids.map((id) => ({ ...place(id), envelope: sealed.body.items[id].envelope }));
  // One at another's place, one of a version that is not there, one of another provider.
  items[3] = { ...place(3), envelope: sealed.body.items[4].envelope };
  items[5] = { ...place(5), envelope: { ...sealed.body.items[5].envelope, kek_version: { $numberInt: "9" } } };
  items[7] = { ...place(7), envelope: { ...sealed.body.items[7].envelope, provider: "pkcs11" } };
  const opened = await api.post("decrypt", { items });
  const failed = new Map([
    [3, [422, "decryption_failed"]],
    [5, [409, "version_not_loaded"]],
    [7, [422, "envelope_invalid"]],
  ] as const);
  for (const id of ids) {
    const problem = failed.get(id as 3);
    if (problem === undefined) expect(opened.body.items[id]).toEqual({ plaintext: base64(`v ${id}`) });
    else expectProblemDocument(opened.body.items[id].error, problem[0], problem[1]);
  }
  await stop(serving);
});

test("with keys in a token, on a Unix socket that only its user can open", async () => {
  const install = await hsmInstall();
  await made(install, 1);
  const { token, variables } = apiToken(directory);
  const socket = join(directory, "api.sock");
  const over = { ...variables, CERTAUTOPILOT_API_SOCKET: socket };
  const serving = await install.serve("api-1", 1, { over });
  expect(statSync(socket).mode & 0o7777).toBe(0o600);
  const api = apiClient("http://localhost", token, { unix: socket });
  const items = Array.from({ length: 200 }, (_, id) => ({ collection: "records", id, field: "value" }));
  const sealed = await api.post("encrypt", {
    items: items.map((item) => ({ ...item, plaintext: base64(`v ${item.id}`) })),
  });
  const back = items.map((item, index) => ({ ...item, ...sealed.body.items[index] }));
  const opened = await api.post("decrypt", { items: back });
  expect(opened.body.items).toEqual(items.map(({ id }) => ({ plaintext: base64(`v ${id}`) })));
  expect((await api.post("decrypt", back[0], { authorization: undefined })).status).toBe(401);

  // A living socket is not taken; one that a dead process left is.
  const second = await run(["serve", "--json"], install.variables(1, over));
  expect([second.code, second.json.error.message]).toEqual([
    2,
    expect.stringContaining("another process answers on it"),
  ]);
  serving.kill("SIGKILL");
  await serving.exited;
  expect(existsSync(socket)).toBe(true);
  const next = await install.serve("api-2", 1, { over });
  expect((await api.post("decrypt", back[0])).body).toEqual({ plaintext: base64("v 0") });
  await stop(next);
  expect(existsSync(socket)).toBe(false);
  // Nor is a file of somebody else's.
  writeFileSync(socket, "notes");
  const third = await run(["serve", "--json"], install.variables(1, over));
  expect([third.code, third.json.error.message]).toEqual([2, expect.stringContaining("no socket")]);
});

test("reads and writes of a service go on through a rotation", async () => {
  const install = await testInstall();
  const { token, variables } = apiToken(directory);
  await (await library(install, [1], 1, "first")).close();
  const fleet = await Promise.all([1, 2].map((n) => install.serve(`api-${n}`, [1, 2], 2, variables)));
  const apis = fleet.map((serving) => apiClient(serving, token));
  const records = install.db.collection<{ _id: number; value: Document }>("records");
  let rotating = true;
  let writes = 0;
  let refused = 0;
  const service = async (id: number) => {
    for (let round = 0; rotating || round < 3; round += 1) {
      const api = apis[round % 2] as (typeof apis)[0];
      const place = { collection: "records", id, field: "value" };
      for (;;) {
        const sealed = await api.post("encrypt", { ...place, plaintext: base64(`${id} ${round}`) });
        expect(sealed).toMatchObject({ status: 200 });
        try {
          const value = EJSON.deserialize(sealed.body.envelope, { relaxed: false });
          await records.updateOne({ _id: id }, { $set: { value } }, { upsert: true });
          break;
        } catch (thrown) {
          // The fence, which says that this envelope is of a version that was left.
          expect(thrown).toMatchObject({ code: 121 });
          refused += 1;
        }
      }
      const stored = await records.findOne({ _id: id }, { promoteValues: false });
      const envelope = EJSON.serialize(stored?.value as Document, { relaxed: false });
      const opened = await api.post("decrypt", { ...place, envelope });
      expect(opened.body).toEqual({ plaintext: base64(`${id} ${round}`) });
      writes += 1;
    }
  };
  const services = [1, 2, 3].map(service);
  const rotated = await run(
    ["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"],
    install.variables([1, 2], 2),
  );
  rotating = false;
  await Promise.all(services);
  expect(rotated.json).toMatchObject({ state: "completed" });
  expect(writes).toBeGreaterThan(9);
  expect(refused).toBeLessThan(writes);
  expect(await records.countDocuments({ "value.kek_version": 2 })).toBe(3);
  await stop(...fleet);
});
