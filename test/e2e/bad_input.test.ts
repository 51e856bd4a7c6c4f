import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { MongoClient } from "mongodb";
import { BAD_ARGUMENTS, rotate } from "../harness/bad_arguments.ts";
import { library, seed } from "../harness/library.ts";
import { unusedPort } from "../harness/mongod_here.ts";
import { guardedMongod, standaloneMongod } from "../harness/other_mongod.ts";
import { kekHex, run, start, stop, testInstall, type Variables } from "../harness/program.ts";
import { changesNothing, dump, expectRefusal, expectSilentAbout, type Refusal, refuses } from "../harness/refusal.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** Bad input: named in one line, with the next step, the right exit code, no secret shown and nothing changed. */

const directory = scratchDirectory();
const PASSWORD = `p@ss/w0rd:${kekHex().slice(0, 20)}`;
const ENCODED = encodeURIComponent(PASSWORD);
const SECRETS = [PASSWORD, ENCODED, kekHex()];
const OTHER_KEY = SECRETS[2] as string;
const KEK = "CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V";
const ACTIVE = ["kek", "verify", "--target=2", "--no-backup-check"];

// Versions 1, active, and 2, staged; 40 records; nobody in the fleet.
const install = await testInstall();
const operator = install.variables([1, 2], 2);
const seeder = await library(install, [1, 2], 1, "seeder");
await seed(seeder, install, 40);
await seeder.close();
const [alone, guarded] = await Promise.all([standaloneMongod(), guardedMongod(install.name, PASSWORD)]);

function file(name: string, content: string, mode = 0o600): string {
  const path = join(directory, name);
  writeFileSync(path, content, { mode });
  return path;
}

const usage = (error: RegExp, hint?: RegExp): Refusal => ({ exit: 2, code: "usage", error, ...(hint ? { hint } : {}) });
test.each(BAD_ARGUMENTS)("%p is refused with exit 2 by what is wrong with it", async (argv, error) => {
  await refuses(install, argv, operator, usage(error));
});

const REFUSED = ["rotation.refused"];
const STATES: [string[], string, RegExp, RegExp, string[]][] = [
  [rotate("--to-version=1"), "refused", /version 1 is already the active one/, /kek status/, REFUSED],
  [rotate("--to-version=7"), "refused", /version 7 is not known/, /verify --target=7/, REFUSED],
  [rotate("--to-version=2", "--from-version=3"), "refused", /--from-version=3/, /--from-version=1/, REFUSED],
  [rotate("--cancel"), "nothing_to_cancel", /nothing to cancel/, /kek status/, []],
  [["kek", "remove", "--version=1"], "refused", /version 1 is/, /./, []],
];
test.each(STATES)("%p is refused with exit 3, and is an audit event", async (argv, code, error, hint, events) => {
  await refuses(install, argv, operator, { exit: 3, code, error, hint }, { events });
});

test("a version that no one holds is named by verify, exit 3", async () => {
  const ran = await changesNothing(install.db, () =>
    run(["kek", "verify", "--target=7", "--no-backup-check"], operator),
  );
  expect([ran.code, ran.stderr]).toEqual([3, ""]);
  expect(ran.stdout).toMatch(/version 7 is not known[\s\S]*hint: .*KEK_V7/);
});

test("a database without an install is named, exit 3, and stays empty", async () => {
  const fresh = await testInstall();
  const refusal: Refusal = { exit: 3, code: "not_installed", error: new RegExp(fresh.name), hint: /serve/ };
  for (const argv of [["kek", "verify"], rotate("--to-version=2")]) {
    await refuses(fresh, argv, fresh.variables([1, 2], 2), refusal);
  }
  expect(await fresh.db.listCollections().toArray()).toEqual([]);
});

const exposed = () => file("exposed.env", `${KEK}2=${install.keks[2]}\n`, 0o644);
const secretsFile = (content: () => string) => () => ({ CERTAUTOPILOT_SECRETS_FILE: file("s.env", content()) });
const yaml = (content: string) => () => ({ CERTAUTOPILOT_CONFIG: file("config.yaml", content) });
const uri = (text: string, name = install.name) => ({
  CERTAUTOPILOT_DATABASE_URI: text,
  CERTAUTOPILOT_DATABASE_NAME: name,
});
const times = (beat: string, lease: string, eviction: string) => () => ({
  CERTAUTOPILOT_FLEET_BEAT_MS: beat,
  CERTAUTOPILOT_FLEET_LEASE_MS: lease,
  CERTAUTOPILOT_FLEET_EVICTION_MS: eviction,
});
const CONFIGURATIONS: [string, () => Variables, string, RegExp][] = [
  ["a secrets file of mode 0644", () => ({ CERTAUTOPILOT_SECRETS_FILE: exposed() }), "secrets_file_exposed", /0644/],
  ["a missing secrets file", () => ({ CERTAUTOPILOT_SECRETS_FILE: "/none.env" }), "secret_unreadable", /\/none\.env/],
  ["a secrets file that is a directory", () => ({ CERTAUTOPILOT_SECRETS_FILE: "/" }), "secret_unreadable", / \/ /],
  ["no KEY=value in a secrets file", secretsFile(() => `A=b\n${OTHER_KEY}\n`), "config_invalid", /line 2/],
  ["a key twice in a secrets file", secretsFile(() => `A=${OTHER_KEY}\nA=b\n`), "config_invalid", /A twice/],
  ["a KEK of 63 digits", () => ({ [`${KEK}2`]: OTHER_KEY.slice(1) }), "key_invalid", /KEK_V2 /],
  ["a KEK with a letter that is no hex digit", () => ({ [`${KEK}2`]: `${OTHER_KEY.slice(1)}g` }), "key_invalid", /V2 /],
  ["a KEK of 63 digits in the secrets file", secretsFile(() => `${KEK}3=${OTHER_KEY.slice(1)}`), "key_invalid", /V3 /],
  ["a KEK of version 0", () => ({ [`${KEK}0`]: OTHER_KEY }), "config_invalid", /KEK_V0 /],
  ["two keys for one version", secretsFile(() => `${KEK}2=${OTHER_KEY}\n`), "key_invalid", /KEK_V2 .*different.* 2/],
  [
    "twice the heartbeat above the lease",
    times("800", "1500", "3000"),
    "config_invalid",
    /twice the heartbeat < lease/,
  ],
  ["a lease as long as the eviction", times("200", "3000", "3000"), "config_invalid", /lease < eviction/],
  ["a heartbeat of no number", times("often", "1500", "3000"), "config_invalid", /FLEET_BEAT_MS/],
  ["broken YAML", yaml(`database: [${OTHER_KEY}\n`), "config_invalid", /config\.yaml/],
  ["YAML that is no mapping", yaml(`${OTHER_KEY}\n`), "config_invalid", /config\.yaml/],
  ["an unknown key in config.yaml", yaml(`encryption:\n  kek: ${OTHER_KEY}\n`), "config_invalid", /encryption\.kek /],
  ["text for a section of config.yaml", yaml("fleet: fast\n"), "config_invalid", /fleet/],
  ["a missing config file", () => ({ CERTAUTOPILOT_CONFIG: "/none.yaml" }), "config_invalid", /\/none\.yaml/],
  ["a port above 65535", () => ({ CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:65536" }), "config_invalid", /SERVER_LISTEN/],
  ["a port of no number", () => ({ CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:http" }), "config_invalid", /SERVER_LISTEN/],
  ["another provider", () => ({ CERTAUTOPILOT_ENCRYPTION_PROVIDER: "hsm" }), "config_invalid", /ENCRYPTION_PROVIDER/],
  ["no URI", () => uri(""), "config_invalid", /DATABASE_URI/],
  ["a URI of another database", () => uri(`postgres://app:${ENCODED}@db/x`), "config_invalid", /DATABASE_URI/],
  [
    "an unescaped password in the URI",
    () => uri(`mongodb://app:p@${OTHER_KEY}/x@db:1/`),
    "config_invalid",
    /DATABASE_URI/,
  ],
  ["a URI with a broken escape", () => uri(`mongodb://app:${ENCODED}@db:1/%zz`, ""), "config_invalid", /DATABASE_URI/],
  ["a URI with a port of no number", () => uri(`mongodb://app:${ENCODED}@db:x/`), "config_invalid", /DATABASE_URI/],
  ["a missing CA file in the URI", () => uri("mongodb://db:1/?tls=true&tlsCAFile=/none"), "config_invalid", /\/none/],
  ["an impossible database name", () => uri(install.uri, "no good"), "config_invalid", /DATABASE_NAME/],
];
test.each(CONFIGURATIONS)("%s is refused with exit 2 by name", async (_what, over, code, error) => {
  await refuses(install, ACTIVE, { ...operator, ...over() }, { exit: 2, code, error }, { secrets: SECRETS });
});

test("an exposed secrets file and a KEK of 63 digits keep serve and rotate from starting as well", async () => {
  const bad: [Variables, string, RegExp][] = [
    [{ CERTAUTOPILOT_SECRETS_FILE: exposed() }, "secrets_file_exposed", /0644/],
    [{ [`${KEK}2`]: OTHER_KEY.slice(1) }, "key_invalid", /KEK_V2 /],
  ];
  for (const [over, code, error] of bad) {
    for (const argv of [["serve"], rotate("--to-version=2")]) {
      await refuses(install, argv, { ...operator, ...over }, { exit: 2, code, error }, { secrets: SECRETS });
    }
  }
});

test("a port that is taken is named by serve, exit 2, and leaves nobody in the fleet", async () => {
  const taken = createServer();
  const port = await new Promise<number>((resolve) =>
    taken.listen(0, "127.0.0.1", () => resolve((taken.address() as { port: number }).port)),
  );
  const over = { CERTAUTOPILOT_SERVER_LISTEN: `127.0.0.1:${port}` };
  const refusal: Refusal = { exit: 2, code: "config_invalid", error: new RegExp(String(port)), hint: /SERVER_LISTEN/ };
  await refuses(install, ["serve"], { ...operator, ...over }, refusal);
  taken.close();
});

test("an audit file that cannot be written stops a rotation before it starts, exit 2", async () => {
  const over = { CERTAUTOPILOT_AUDIT_FILE: "/none/audit.jsonl" };
  const refusal: Refusal = { exit: 2, code: "config_invalid", error: /\/none\/audit\.jsonl/ };
  const fresh = await testInstall();
  await stop(await fresh.serve("first", [1, 2], 1));
  await refuses(fresh, rotate("--to-version=2"), { ...fresh.variables([1, 2], 2), ...over }, refusal);
});

test.concurrent("without MongoDB every command ends in time, exit 9, and says where it looked", async () => {
  const host = `127.0.0.1:${await unusedPort()}`;
  const commands = [ACTIVE, rotate("--to-version=2"), ["serve"], [...ACTIVE, "--json"]];
  const began = performance.now();
  await Promise.all(commands.map((argv) => isAway(`mongodb://app:${ENCODED}@${host}/?replicaSet=rs0`, host, argv)));
  // Five seconds of looking, and what a busy machine takes to start four programs; the driver's own patience is 30 s.
  expect(performance.now() - began).toBeLessThan(25_000);
});

test.concurrent("a host that no name server knows is MongoDB away, exit 9", async () => {
  const schemes = ["mongodb", "mongodb+srv"];
  const host = "nowhere.invalid";
  await Promise.all(
    schemes.map((scheme) => isAway(`${scheme}://app:${ENCODED}@${host}/?replicaSet=rs0`, host, ACTIVE)),
  );
});

async function isAway(text: string, host: string, argv: string[]): Promise<void> {
  const ran = await run(argv, { ...operator, ...uri(text) });
  expectSilentAbout(ran, [...SECRETS, ...Object.values(install.keks)]);
  const refusal: Refusal = { exit: 9, code: "mongodb_unavailable", error: new RegExp(host), hint: /DATABASE_URI/ };
  expectRefusal(ran, refusal, argv.includes("--json"));
}

test.concurrent("a standalone mongod is refused, exit 9, and stays untouched", async () => {
  const host = alone;
  // Asked for a member of rs0, the driver looks for one until it gives up, and then says no more than that.
  const named = run(ACTIVE, { ...operator, ...uri(`mongodb://${host}/?replicaSet=rs0`) });
  const error = new RegExp(`${host} is not a replica set`);
  const refusal: Refusal = { exit: 9, code: "mongodb_no_replica_set", error, hint: /rs\.initiate/ };
  for (const argv of [ACTIVE, ["serve"]]) {
    const ran = await run(argv, { ...operator, ...uri(`mongodb://${host}/`) });
    expectRefusal(ran, refusal, false);
  }
  expectRefusal(
    await named,
    { exit: 9, code: "mongodb_unavailable", error: new RegExp(host), hint: /replicaSet/ },
    false,
  );
  const client = await new MongoClient(`mongodb://${host}/?directConnection=true`).connect();
  const { databases } = await client.db("admin").admin().listDatabases();
  expect(databases.map(({ name }) => name)).toEqual(["admin", "config", "local"]);
  await client.close();
});

test.concurrent("wrong credentials, none, and a user without rights are refused, exit 9; the right ones serve", async () => {
  const db = guarded.root.db(install.name);
  const as = (text: string) => ({ ...operator, ...uri(text) });
  const serving = start(["serve"], as(guarded.uri("app", PASSWORD)));
  await serving.says(" is ready on ");
  await stop(serving);
  const before = await dump(db);
  expect(Object.keys(before)).toContain("kek_install");
  const wrong = `${PASSWORD.slice(0, -1)}!`;
  const cases: [string, RegExp][] = [
    [guarded.uri("app", wrong), /does not accept the user or password/],
    [guarded.uri("stranger", PASSWORD), /does not permit/],
    [`mongodb://${guarded.host}/?replicaSet=rs0`, /does not permit|requires authentication/],
  ];
  for (const [text, error] of cases) {
    for (const argv of [ACTIVE, ["serve"]]) {
      const refusal: Refusal = { exit: 9, code: "mongodb_refused", error, hint: /user|grant/ };
      await refuses(install, argv, as(text), refusal, { secrets: [...SECRETS, wrong], db });
    }
  }
  expect(await dump(db)).toEqual(before);
});
