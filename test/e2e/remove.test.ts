import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { library, seed, versionsOf } from "../harness/library.ts";
import { type Ran, run, stop, type TestInstall, testInstall, until } from "../harness/program.ts";
import {
  CALM,
  events,
  heartbeat,
  kek,
  movedTo,
  proveAll,
  rotating,
  SLOWLY,
  seededInstall,
  serveAll,
  versionStates,
} from "../harness/schedule.ts";

/** `kek remove`: refuses while anything could need the key, and then leaves nothing of it. */

function refused(ran: Ran, ...says: (string | RegExp)[]): void {
  expect(ran.code).toBe(3);
  expect(ran.stderr).toMatch(/^error: .+\nhint: .+\n$/);
  for (const text of says) expect(ran.json.error.message).toMatch(text);
}

/** An operator whose keys are in a secrets file, mode 0600. */
function secretsFile(install: TestInstall, versions: number[]) {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-remove-"));
  const path = join(directory, "secrets.env");
  const lines = versions.map((version) => `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}=${install.keks[version]}`);
  writeFileSync(path, `# keys of the tests\n${lines.join("\n")}\nOTHER="kept as it is"\n`, { mode: 0o600 });
  return {
    path,
    variables: install.variables([], 2, { CERTAUTOPILOT_SECRETS_FILE: path }),
    content: () => readFileSync(path, "utf8"),
    mode: () => (statSync(path).mode & 0o777).toString(8),
    drop: () => rmSync(directory, { recursive: true }),
  };
}

test("refused: the active version, both versions of an open rotation, an unknown one", async () => {
  const install = await seededInstall(300, CALM);
  const fleet = await serveAll(install, "a");
  refused(await kek(install, "remove", "--version=1"), "version 1 is the active one");
  refused(await kek(install, "remove", "--version=4"), "version 4 is not known");
  const rotate = rotating(install, "--to-version=2", ...SLOWLY);
  await movedTo(install, 2, 30);
  refused(await kek(install, "remove", "--version=1"), /version 1 is (the active one|part of the open rotation 1 → 2)/);
  refused(await kek(install, "remove", "--version=2"), "version 2 is part of the open rotation 1 → 2");
  rotate.kill("SIGINT");
  expect((await rotate.exited).code).toBe(5);
  // A cancelled one is open as well: records are at both versions.
  refused(await kek(install, "remove", "--version=1"), /version 1 is/);
  refused(await kek(install, "remove", "--version=2"), "version 2 is part of the open rotation 1 → 2");
  await proveAll(install, [1, 2], 300);
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  await proveAll(install, [2], 300);
  await stop(...fleet);
});

test("refused: a retired version with an envelope left, or held by a process; removed when neither is so", async () => {
  const install = await seededInstall(40, CALM);
  const writer = await library(install, [1, 2], 1, "writer");
  const value = await writer.encrypt("secret 40", { collection: "secrets", id: 40, field: "value" });
  await writer.close();
  const [a, b] = await serveAll(install, "a", "b");
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  // Past the fence, as a restore of old data might come.
  const stale = { _id: 40 as never, value };
  await install.db.collection("secrets").insertOne(stale, { bypassDocumentValidation: true });
  refused(await kek(install, "remove", "--version=1"), "1 envelopes of secrets:value are at KEK version 1");
  await install.db.collection("secrets").deleteOne({ _id: 40 as never });

  // `a` loads v1 for a reverse rotation, and is stopped before it can give it up again.
  b.kill("SIGSTOP");
  const back = rotating(install, "--to-version=1", "--from-version=2");
  await until("a holds v1", async () => (await heartbeat(install, "a"))?.["acked"]?.phase === 1);
  a.kill("SIGSTOP");
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  expect((await back.exited).code).toBe(5);
  b.kill("SIGCONT");
  refused(await kek(install, "remove", "--version=1"), /KEK version 1 is still held by .*a \(api, /);
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });
  a.kill("SIGCONT");
  await until("a has given v1 up", async () => (await heartbeat(install, "a"))?.["loaded"]?.join() === "2");
  await until("b has given v1 up", async () => (await heartbeat(install, "b"))?.["loaded"]?.join() === "2");
  const removed = await kek(install, "remove", "--version=1");
  expect(removed.code).toBe(0);
  // This operator's keys are in the environment, where no program can take them out.
  expect(removed.json).toMatchObject({
    outcome: "destroyed",
    destroyed: [],
    remaining: ["CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1"],
  });
  await proveAll(install, [2], 40);
  await stop(a, b);
});

test("a retired version that nothing needs: destroyed, its line gone, the file 0600; never to be used again", async () => {
  const install = await seededInstall(30, CALM);
  const fleet = await serveAll(install, "a");
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  const file = secretsFile(install, [1, 2]);
  const before = file.content();
  const removed = await run(["kek", "remove", "--version=1", "--json"], file.variables);
  expect(removed.code).toBe(0);
  expect(removed.json).toMatchObject({ version: 1, outcome: "destroyed", remaining: [] });
  expect(removed.json.destroyed).toEqual([`CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1 in ${file.path}`]);
  expect(file.content()).toBe(before.replace(/^.*KEK_V1=.*\n/m, ""));
  expect(file.mode()).toBe("600");
  expect(await versionStates(install)).toEqual({ "1": "destroyed", "2": "active" });
  expect(await events(install, "version.destroyed")).toMatchObject([{ version: 1 }]);
  expect(removed.stdout + removed.stderr).not.toContain(install.keks[1] as string);

  const again = await run(["kek", "remove", "--version=1"], file.variables);
  expect(again.code).toBe(0);
  expect(again.stdout).toContain("KEK version 1 is destroyed");
  expect(await events(install, "version.destroyed")).toHaveLength(1);

  const rotate = await rotating(install, "--to-version=1", "--from-version=2").exited;
  refused(rotate, "version 1 was destroyed");
  expect((await kek(install, "verify", "--target=1")).code).toBe(3);
  expect(await versionsOf(install)).toEqual({ "2": 30 });
  await proveAll(install, [2], 30);
  file.drop();
  await stop(...fleet);
  // What is done is not announced a second time.
  expect(again.stderr).not.toContain("will be destroyed");
});

test("a staged version is forgotten; where a process still holds it, that is said", async () => {
  const install = await testInstall();
  const seeder = await library(install, [1, 2, 3], 1, "seeder");
  await seed(seeder, install, 10);
  await seeder.close();
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged", "3": "staged" });
  const copied = await kek(install, "remove", "--version=3", "--keep-copy");
  expect([copied.code, copied.json.error.message]).toEqual([2, expect.stringMatching(/--keep-copy .* is staged/)]);
  const forgotten = await kek(install, "remove", "--version=3");
  expect(forgotten.code).toBe(0);
  expect(forgotten.json).toMatchObject({ version: 3, outcome: "forgotten", remaining: [] });
  expect(await versionStates(install)).toEqual({ "1": "active", "2": "staged" });
  expect(await events(install, "version.forgotten")).toMatchObject([{ version: 3 }]);
  expect(await events(install, "version.destroyed")).toEqual([]);

  // Other bytes under the number, now that it is free: they count.
  install.keks[3] = "ab".repeat(32);
  const holder = await install.serve("holder", [1, 2, 3], 1);
  await until("v3 is staged again", async () => (await versionStates(install))["3"] === "staged");
  await until("holder holds v3", async () => (await heartbeat(install, "holder"))?.["loaded"]?.includes(3));
  const held = await kek(install, "remove", "--version=3");
  expect(held.code).toBe(0);
  expect(held.json.remaining.join()).toContain("holder (api, ");
  await proveAll(install, [1, 2], 10);
  await stop(holder);
});

test("rotate --remove-old: completes and destroys in one go", async () => {
  const install = await seededInstall(30, CALM);
  const fleet = await serveAll(install, "a", "b");
  const file = secretsFile(install, [1, 2]);
  const ran = await run(
    ["kek", "rotate", "--to-version=2", "--no-backup-check", "--remove-old", "--json"],
    file.variables,
  );
  expect(ran.code).toBe(0);
  expect(ran.json).toMatchObject({
    state: "completed",
    rewrapped: 30,
    removal: { version: 1, outcome: "destroyed", destroyed: [`CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1 in ${file.path}`] },
  });
  expect(file.content()).not.toContain("KEK_V1");
  expect(file.content()).toContain("KEK_V2");
  expect(file.mode()).toBe("600");
  expect(await versionStates(install)).toEqual({ "1": "destroyed", "2": "active" });
  await proveAll(install, [2], 30);
  file.drop();
  await stop(...fleet);
});
