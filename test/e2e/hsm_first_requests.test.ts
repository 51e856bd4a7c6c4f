import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { addressOf, seededHsm } from "../harness/hsm_install.ts";
import { stop } from "../harness/program.ts";

/** The first requests of a process whose keys are in a token, all at once. */

const REQUESTS = 500;
const TOKEN = "first-requests-".padEnd(40, "x");

test(`${REQUESTS} parallel decrypts right after the start are all answered, with a token of 2 ms a call`, async () => {
  const install = await seededHsm(0, []);
  const { shim, directory } = install.token;
  const tokenFile = join(directory, "api-token");
  writeFileSync(tokenFile, TOKEN, { mode: 0o600 });
  const options = { over: { CERTAUTOPILOT_API_TOKEN_FILE: tokenFile } };
  const post = async (address: string, path: string, body: object) => {
    const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
    const response = await fetch(`${address}/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    return { status: response.status, body: (await response.json()) as { envelope?: unknown; type?: string } };
  };
  const place = { collection: "notes", id: 1, field: "text" };
  const before = await install.serve("first", 1, options);
  const { body } = await post(addressOf(before), "encrypt", { ...place, plaintext: "c2VjcmV0" });
  await stop(before);
  shim.set({ latencyUs: 2000, slowInit: 1 });
  const serving = await install.serve("first", 1, options);
  const request = { ...place, envelope: body.envelope };
  const answers = await Promise.all(
    Array.from({ length: REQUESTS }, () => post(addressOf(serving), "decrypt", request)),
  );
  expect(answers.filter(({ status }) => status !== 200).map(({ body }) => body)).toEqual([]);
  expect(answers.length).toBe(REQUESTS);
});
