import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { apiClient, apiToken, base64, expectProblem, expectProblemDocument } from "../harness/api.ts";
import { addressOf } from "../harness/hsm_install.ts";
import { run, stop, testInstall, until } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** What the API refuses: each time a problem document, nothing of it from inside, nothing secret. */

const directory = scratchDirectory();
const SECRET = "the plaintext that nobody may see";
const item = { collection: "records", id: 1, field: "value", plaintext: base64(SECRET) };

/** A client that begins a body and never ends it. @returns what it is told before the connection is closed. */
async function sentSlowly(address: string, token: string): Promise<string> {
  const { hostname, port } = new URL(address);
  return await new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    let said = "";
    socket.on("data", (chunk) => {
      said += chunk.toString();
    });
    socket.once("close", () => resolve(said));
    socket.once("error", reject);
    const head = `POST /v1/encrypt HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}`;
    socket.write(`${head}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{`);
  });
}

test("each refusal is a problem document that tells nothing", async () => {
  const install = await testInstall();
  const { token, variables } = apiToken(directory);
  const serving = await install.serve("api-1", [1], 1, variables);
  const api = apiClient(serving, token);
  const secrets = [token, SECRET, base64(SECRET), install.keks[1] as string];
  const refused = async (status: number, code: string, body: unknown, headers = {}, path = "encrypt") => {
    const answered = await api.post(path, body, headers);
    expectProblem(answered, status, code, secrets);
    return answered;
  };

  const slow = sentSlowly(addressOf(serving), token);

  // Who asks
  const nobody = await refused(401, "unauthorized", item, { authorization: undefined });
  expect(nobody.headers.get("www-authenticate")).toBe('Bearer realm="certautopilot"');
  const wrong = await refused(401, "unauthorized", item, { authorization: `Bearer ${token}x` });
  expect(wrong.headers.get("www-authenticate")).toContain('error="invalid_token"');
  await refused(401, "unauthorized", item, { authorization: `Basic ${base64(`a:${token}`)}` });
  await refused(401, "unauthorized", item, { authorization: token });
  await refused(421, "host_refused", item, { host: "attacker.example" });
  await refused(421, "host_refused", item, { host: "127.0.0.1.attacker.example:8181" });
  await refused(403, "origin_refused", item, { origin: "https://attacker.example" });
  await refused(403, "origin_refused", item, { origin: "null" });
  expect((await api.post("encrypt", item, { origin: addressOf(serving) })).status).toBe(200);

  // What is sent
  await refused(415, "media_type_refused", JSON.stringify(item), { "content-type": "text/plain" });
  await refused(415, "media_type_refused", JSON.stringify(item), { "content-type": undefined });
  await refused(400, "body_broken", `{"plaintext": "${base64(SECRET)}", `);
  await refused(400, "body_broken", "");
  await refused(
    400,
    "body_broken",
    Buffer.concat([Buffer.from('{"a":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}')]),
  );
  for (const body of [[], null, 1, "text", {}, { items: [] }, { items: {} }, { items: [item], more: 1 }])
    await refused(422, "request_invalid", JSON.stringify(body));
  await refused(422, "request_invalid", { items: Array.from({ length: 1001 }, () => item) });
  const misplaced = await refused(422, "request_invalid", { ...item, [SECRET]: 1 });
  expect(misplaced.body.detail).toContain("not known");
  const long = await refused(422, "request_invalid", { ...item, id: 5_000_000_000 });
  expect(long.body.hint).toContain('{"$numberLong": "…"}');
  const second = await refused(422, "request_invalid", { items: [item, { ...item, plaintext: SECRET }] });
  expect(second.body.detail).toContain("items.1.plaintext");
  for (const over of [
    { plaintext: undefined },
    { plaintext: "YQ" },
    { plaintext: "YQ==\n" },
    { plaintext: "YR==" },
    { plaintext: "_-_-" },
    { collection: "kek_versions" },
    { collection: "system.users" },
    { collection: "a$b" },
    { field: "_id" },
    { field: "a..b" },
    { field: "a.$.b" },
    { id: undefined },
    { id: [1] },
    { id: [] },
    { id: 5.5 },
    { id: 2_147_483_648 },
    { id: { $oid: "zz" } },
    { id: { $oid: "0".repeat(24), more: 1 } },
    { id: { $numberInt: "2147483648" } },
    { id: { $numberLong: "9223372036854775808" } },
    { id: { $regularExpression: { pattern: "a", options: "" } } },
    { id: { b: 1, 7: 2 } },
    { id: { $where: "1" } },
  ])
    await refused(422, "request_invalid", { ...item, ...over });
  for (const raw of ['{"__proto__":1,"a":1}', '{"a":{"constructor":1}}', '"\\ud800"'])
    await refused(422, "request_invalid", JSON.stringify(item).replace('"id":1', `"id":${raw}`));
  for (const edge of ["-2147483648", "2147483647"]) {
    expect((await api.post("encrypt", { ...item, id: { $numberInt: edge } })).status).toBe(200);
    expect((await api.post("encrypt", { ...item, id: Number(edge) })).status).toBe(200);
  }

  // How much of it
  await refused(413, "plaintext_too_large", { ...item, plaintext: base64(new Uint8Array(8 * 1024 * 1024 + 1)) });
  const large = new Uint8Array(17 * 1024 * 1024).fill(32);
  await refused(413, "body_too_large", large);
  const stream = new ReadableStream({
    start: (controller) => {
      for (let at = 0; at < 17; at += 1) controller.enqueue(large.subarray(0, 1024 * 1024));
      controller.close();
    },
  });
  await refused(413, "body_too_large", stream);

  // Envelopes
  const { collection, id, field } = item;
  const sealed = (await api.post("encrypt", item)).body.envelope;
  const open = (envelope: unknown, over = {}) => ({ collection, id, field, envelope, ...over });
  await refused(422, "decryption_failed", open(sealed, { id: 2 }), {}, "decrypt");
  await refused(422, "decryption_failed", open(sealed, { id: { $numberLong: "1" } }), {}, "decrypt");
  await refused(422, "envelope_invalid", open({ ...sealed, provider: "pkcs11" }), {}, "decrypt");
  await refused(422, "envelope_invalid", open({ ...sealed, nonce: sealed.wrapped_dek }), {}, "decrypt");
  await refused(422, "request_invalid", open({ ...sealed, more: 1 }), {}, "decrypt");
  await refused(422, "request_invalid", open("text"), {}, "decrypt");
  await refused(409, "version_not_loaded", open({ ...sealed, kek_version: 9 }), {}, "decrypt");

  // Paths and methods
  for (const [method, path, status, code] of [
    ["GET", "/v1/encrypt", 405, "method_not_allowed"],
    ["PUT", "/v1/decrypt", 405, "method_not_allowed"],
    ["OPTIONS", "/v1/encrypt", 405, "method_not_allowed"],
    ["POST", "/v1/openapi.json", 405, "method_not_allowed"],
    ["GET", "/v1", 404, "not_found"],
    ["GET", "/v1/keys", 404, "not_found"],
  ] as const) {
    const answered = await api.ask(method, path);
    expectProblem(answered, status, code, secrets);
    if (status === 405) {
      expect(answered.headers.get("allow")).toMatch(/POST|GET/);
      expect(answered.body.detail).toStartWith(path);
    }
  }
  expect((await api.ask("GET", "/v1/openapi.json")).body.openapi).toBe("3.1.0");
  expect((await api.ask("GET", "/healthz")).body).toEqual({ ok: true });
  expect(await slow).toMatch(/^HTTP\/1\.1 408[\s\S]*body_too_slow/);
  for (const secret of [token, SECRET, base64(SECRET)]) expect(serving.stderr).not.toContain(secret);
  await stop(serving);
});

test("a field that MongoDB makes no index for is refused, and registered nowhere", async () => {
  const install = await testInstall();
  const { token, variables } = apiToken(directory);
  const serving = await install.serve("api-1", [1], 1, variables);
  const api = apiClient(serving, token);
  const long = { ...item, collection: "\u{1F511}".repeat(75) };
  expectProblem(await api.post("encrypt", long), 422, "usage", [item.plaintext]);
  const full = install.db.collection("full");
  for (let n = 1; n <= 63; n += 1) await full.createIndex({ [`f${n}`]: 1 });
  expectProblem(await api.post("encrypt", { ...item, collection: "full" }), 422, "usage", [item.plaintext]);
  expect(await install.db.collection("kek_fields").countDocuments()).toBe(0);
  expect((await api.post("encrypt", item)).status).toBe(200);
  expect(await install.db.collection("kek_fields").countDocuments()).toBe(1);
  await stop(serving);
});

test("encrypt while fenced off is a problem, and decrypt continues", async () => {
  const install = await testInstall();
  const { token, variables } = apiToken(directory);
  const serving = await install.serve("api-1", [1], 1, variables);
  const api = apiClient(serving, token);
  const { plaintext, ...place } = item;
  const sealed = await api.post("encrypt", item);
  // A state that a newer release wrote: this process follows none of it, and its lease runs out.
  const versions = install.db.collection<{ _id: number; format?: number }>("kek_versions");
  await versions.updateOne({ _id: 1 }, { $set: { format: 9 } });
  await until("it is fenced off", async () => (await api.post("encrypt", item)).status !== 200);
  expectProblem(await api.post("encrypt", item), 503, "fenced", [SECRET, plaintext, token]);
  const batch = await api.post("encrypt", { items: [item, item] });
  for (const { error } of batch.body.items) expectProblemDocument(error, 503, "fenced");
  expect((await api.post("decrypt", { ...place, ...sealed.body })).body).toEqual({ plaintext });
  await versions.updateOne({ _id: 1 }, { $unset: { format: 1 } });
  await until("it encrypts again", async () => (await api.post("encrypt", item)).status === 200);
  await stop(serving);
});

test("off until configured; a token that others can read, or that is none, is refused; a changed one counts at once", async () => {
  const install = await testInstall();
  const off = await install.serve("off", [1], 1);
  for (const path of ["/v1/encrypt", "/v1/openapi.json", "/v1"])
    expectProblem(await apiClient(off, "t").ask("GET", path), 404, "api_off");
  await stop(off);

  const { token, path, variables } = apiToken(directory);
  const refused = async (exit: number, code: string, message: string) => {
    const ran = await run(["serve", "--json"], install.variables([1], 1, variables));
    expect([ran.code, ran.json.error.code, ran.json.error.message]).toEqual([
      exit,
      code,
      expect.stringContaining(message),
    ]);
    expect(ran.stderr).not.toContain(token);
  };
  chmodSync(path, 0o640);
  await refused(2, "secrets_file_exposed", path);
  chmodSync(path, 0o600);
  writeFileSync(path, "short");
  await refused(2, "config_invalid", path);
  writeFileSync(path, `${token}\n`);

  const serving = await install.serve("api-1", [1], 1, variables);
  const api = apiClient(serving, token);
  expect((await api.post("encrypt", item)).status).toBe(200);
  const next = readFileSync(apiToken(directory).path, "utf8").trim();
  writeFileSync(path, next);
  await until("the old token is refused", async () => (await api.post("encrypt", item)).status === 401);
  expect((await apiClient(serving, next).post("encrypt", item)).status).toBe(200);
  chmodSync(path, 0o644);
  await until("nobody gets in", async () => (await apiClient(serving, next).post("encrypt", item)).status === 503);
  expectProblem(await apiClient(serving, next).post("encrypt", item), 503, "token_unreadable", [next, path]);
  await until("it says why", async () => serving.stderr.includes("0644"));
  await stop(serving);
});

test("beyond loopback only under TLS", async () => {
  const install = await testInstall();
  const { token, variables } = apiToken(directory);
  const beyond = { ...variables, CERTAUTOPILOT_SERVER_LISTEN: "0.0.0.0:0" };
  const ran = await run(["serve", "--json"], install.variables([1], 1, beyond));
  expect([ran.code, ran.json.error.code, ran.json.error.hint]).toEqual([
    2,
    "config_invalid",
    expect.stringContaining("CERTAUTOPILOT_SERVER_TLS_CERT_FILE"),
  ]);

  const [key, cert] = [join(directory, "key.pem"), join(directory, "cert.pem")];
  const words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,DNS:keys.test,IP:127.0.0.1"];
  execFileSync("openssl", [...words, ...names, "-keyout", key, "-out", cert], { stdio: "pipe" });
  const over = {
    ...beyond,
    CERTAUTOPILOT_SERVER_TLS_CERT_FILE: cert,
    CERTAUTOPILOT_SERVER_TLS_KEY_FILE: key,
    CERTAUTOPILOT_SERVER_HOSTS: "keys.test",
  };
  chmodSync(key, 0o644);
  expect((await run(["serve", "--json"], install.variables([1], 1, over))).json.error.code).toBe(
    "secrets_file_exposed",
  );
  chmodSync(key, 0o600);
  const serving = await install.serve("api-1", [1], 1, over);
  const { port } = new URL(addressOf(serving));
  const tls = { ca: readFileSync(cert, "utf8") };
  const api = apiClient(`https://localhost:${port}`, token, { tls });
  expect((await api.post("encrypt", item)).status).toBe(200);
  expect((await api.post("encrypt", item, { host: `keys.test:${port}` })).status).toBe(200);
  expectProblem(await api.post("encrypt", item, { host: "other.test" }), 421, "host_refused", [token]);
  await expect(apiClient(`http://localhost:${port}`, token).post("encrypt", item)).rejects.toThrow();
  await stop(serving);
});
