import { expect, test } from "bun:test";
import { type Document, Long } from "mongodb";
import { type Ran, run, stop, type TestInstall, until, type Variables } from "../harness/program.ts";
import { CALM, kek, rotating, SLOWLY, seededInstall, serveAll } from "../harness/schedule.ts";

/** `kek verify` never says ready, or healthy, where `kek rotate` refuses or `kek status` finds something. */

const TARGET = ["verify", "--target=2"];
const ROTATE = ["rotate", "--to-version=2", "--dry-run"];
const UNCHECKED = "--no-backup-check";

async function asked(install: TestInstall, argv: string[], over: Variables = {}, versions = [1, 2]): Promise<Ran> {
  return await run(["kek", ...argv, "--json"], install.variables(versions, 2, over));
}

function messages({ json }: Ran): string {
  const { problems = [], error } = json as { problems?: { message: string }[]; error?: Document };
  return [...problems, ...(error?.["problems"] ?? (error === undefined ? [] : [error]))]
    .map(({ message }) => message)
    .join("\n");
}

interface Situation {
  what: string;
  /** Both say it. */
  says: RegExp;
  arrange?: (install: TestInstall) => Promise<unknown>;
  over?: Variables;
  versions?: number[];
  /** Instead of going without a verified backup. */
  flags?: string[];
  /** Puts it right for the next. */
  restore?: (install: TestInstall) => Promise<unknown>;
}

const KEK = "CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V";
const OTHER_KEY = "ab".repeat(32);
const secrets = ({ db }: TestInstall) => db.collection<Document>("secrets");
const versions = ({ db }: TestInstall) => db.collection<Document>("kek_versions");
const set = (version: number, change: Document) => (install: TestInstall) =>
  versions(install).updateOne({ _id: version as never }, { $set: change });

const SITUATIONS: Situation[] = [
  { what: "this host has no key of the active version", says: /no key for KEK version 1/, versions: [2] },
  { what: "this host has no key of the target", says: /no key for KEK version 2/, versions: [1] },
  { what: "this host has other bytes under the target", says: /KEK version 2/, over: { [`${KEK}2`]: OTHER_KEY } },
  {
    what: "this host has other bytes under the active version",
    says: /KEK version 1/,
    over: { [`${KEK}1`]: OTHER_KEY },
  },
  {
    what: "an envelope is at a version that nobody knows",
    says: /1 envelope of secrets:value is at version 7/,
    arrange: (install) => secrets(install).updateOne({ _id: 0 as never }, { $set: { "value.kek_version": 7 } }),
    restore: (install) => secrets(install).updateOne({ _id: 0 as never }, { $set: { "value.kek_version": 1 } }),
  },
  {
    what: "a field holds plaintext",
    says: /1 value of secrets:value has no kek_version: plaintext/,
    arrange: (install) => secrets(install).insertOne({ _id: "plain" as never, value: "plain" }),
    restore: (install) => secrets(install).deleteOne({ _id: "plain" as never }),
  },
  {
    what: "the target has no room for the wraps",
    says: /room for 3 more wraps/,
    arrange: set(2, { wraps: Long.fromNumber(2 ** 32 - 3) }),
    restore: set(2, { wraps: 1000 }),
  },
  {
    what: "the target is retired",
    says: /KEK version 2 is retired: going back to it must be meant/,
    arrange: set(2, { state: "retired" }),
    restore: set(2, { state: "staged" }),
  },
  {
    what: "this shell declares another version",
    says: /this shell declares current version 4/,
    over: { CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: "4" },
  },
  { what: "no backup was verified", says: /no backup/, flags: [] },
  { what: "no backup was verified, and one is asked for", says: /no backup/, flags: ["--require-backup"] },
  {
    what: "the audit secret is another one",
    says: /AUDIT_SECRET/,
    over: { CERTAUTOPILOT_AUDIT_SECRET: "another-secret-of-the-audit" },
  },
  {
    what: "an index of another definition has our name",
    says: /the index value\.kek_version_1__id_1 of secrets is sparse/,
    arrange: async (install) => {
      await secrets(install).dropIndex("value.kek_version_1__id_1");
      const name = "value.kek_version_1__id_1";
      await secrets(install).createIndex({ "value.kek_version": 1, _id: 1 }, { name, sparse: true });
    },
    restore: (install) => secrets(install).dropIndex("value.kek_version_1__id_1"),
  },
  {
    what: "a field's collection is capped",
    says: /logs:value cannot hold envelopes: it is a capped collection/,
    arrange: async ({ db }) => {
      await db.createCollection("logs", { capped: true, size: 4096 });
      await db
        .collection<Document>("kek_fields")
        .insertOne({ _id: "logs:value" as never, collection: "logs", path: "value" });
    },
    restore: ({ db }) => db.collection<Document>("kek_fields").deleteOne({ _id: "logs:value" as never }),
  },
  {
    what: "a field leads through an array",
    says: /devices:list\.value leads through an array/,
    arrange: async ({ db }) => {
      await db
        .collection<Document>("kek_fields")
        .insertOne({ _id: "devices:list.value" as never, collection: "devices", path: "list.value" });
      await db.collection("devices").createIndex({ "list.value.kek_version": 1, _id: 1 });
      await db.collection<Document>("devices").insertOne({ list: [{ value: { kek_version: 1 } }] });
    },
    restore: async ({ db }) => {
      await db.collection("devices").drop();
      await db.collection<Document>("kek_fields").deleteOne({ _id: "devices:list.value" as never });
    },
  },
  {
    what: "the target is the active version",
    says: /KEK version 2 is already the active one/,
    arrange: async (install) => {
      await set(1, { state: "staged" })(install);
      await set(2, { state: "active" })(install);
      await secrets(install).updateMany({}, { $set: { "value.kek_version": 2 } });
    },
    restore: async (install) => {
      await set(2, { state: "staged" })(install);
      await set(1, { state: "active" })(install);
      await secrets(install).updateMany({}, { $set: { "value.kek_version": 1 } });
    },
  },
];

test("verify --target is not ready in each situation in which rotate refuses, and says the same", async () => {
  const install = await seededInstall(10);
  expect([
    (await asked(install, [...TARGET, UNCHECKED])).code,
    (await asked(install, [...ROTATE, UNCHECKED])).code,
  ]).toEqual([0, 0]);
  const wrong: Record<string, unknown> = {};
  for (const { what, says, arrange, over, versions: held, flags = [UNCHECKED], restore } of SITUATIONS) {
    await arrange?.(install);
    const [verified, refused] = await Promise.all([
      asked(install, [...TARGET, ...flags], over, held),
      asked(install, [...ROTATE, ...flags], over, held),
    ]);
    await restore?.(install);
    const outcome = [verified.code, refused.code, says.test(messages(verified)), says.test(messages(refused))];
    if (JSON.stringify(outcome) !== JSON.stringify([3, 3, true, true]))
      wrong[what] = [...outcome, messages(verified), messages(refused) || refused.stderr];
  }
  expect(wrong).toEqual({});
  expect((await asked(install, [...TARGET, UNCHECKED])).code).toBe(0);
});

test("a rotation that another command leads is nothing to begin", async () => {
  const install = await seededInstall(60, CALM);
  const leading = rotating(install, "--to-version=2", ...SLOWLY);
  await leading.says("phase 2: re-wrap");
  const verified = await asked(install, [...TARGET, UNCHECKED]);
  expect([verified.code, messages(verified)]).toEqual([3, expect.stringMatching(/the rotation 1 → 2 is run by cli/)]);
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  await leading.exited;
  expect((await asked(install, [...TARGET, UNCHECKED])).code).toBe(0);
  const back = await asked(install, ["verify", "--target=1", "--from-version=2"]);
  expect([back.code, messages(back)]).toEqual([0, ""]);
});

test("verify and status have one set of findings: urgent ones are problems, those that are due are warnings", async () => {
  const install = await seededInstall(5);
  const both = async () => {
    const [verified, status] = await Promise.all([kek(install, "verify"), kek(install, "status")]);
    const reasons = status.json.health.findings as { message: string; urgent: boolean }[];
    return {
      verified,
      reasons,
      told: (urgent: boolean) => reasons.filter((each) => each.urgent === urgent).map(({ message }) => message),
    };
  };
  const alike = async (code: number, urgent: RegExp | undefined, due?: RegExp) => {
    const { verified, told } = await both();
    const ageless = (text: string) => text.replaceAll(/last heartbeat was [\d.]+ \w+ ago/g, "…");
    const said = (list: { message: string }[]) => list.map(({ message }) => ageless(message)).sort();
    expect(said(verified.json.problems)).toEqual(told(true).map(ageless).sort());
    expect(said(verified.json.warnings)).toEqual(told(false).map(ageless).sort());
    expect(verified.code).toBe(code);
    if (urgent !== undefined) expect(told(true).join("\n")).toMatch(urgent);
    if (due !== undefined) expect(told(false).join("\n")).toMatch(due);
  };
  await alike(3, /no process is in the fleet/);
  const [early] = await serveAll(install, "early");
  // Declared before the rotation, as it should be: something is to be done soon, and nothing is wrong.
  await until("it has joined", async () => (await kek(install, "verify")).code === 0);
  await alike(0, undefined, /early \(.*\) declares KEK version 2/);

  early.kill("SIGSTOP");
  await until("it is silent", async () => (await kek(install, "verify")).code === 3);
  await alike(3, /early .* is silent/);
  early.kill("SIGCONT");
  await until("it is back", async () => (await kek(install, "verify")).code === 0);

  const log = install.db.collection<Document>("audit_log");
  const last = (await log.findOne({}, { sort: { seq: -1 } })) as Document;
  await log.updateOne({ seq: last["seq"] }, { $set: { actor: "somebody else" } });
  await alike(3, /the audit chain is broken/);
  await log.updateOne({ seq: last["seq"] }, { $set: { actor: last["actor"] } });
  await alike(0, undefined);
  await stop(early);
});
