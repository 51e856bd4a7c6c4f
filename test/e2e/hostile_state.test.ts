import { expect, test } from "bun:test";
import { Binary, Int32, Long } from "mongodb";
import { openFieldEncryption } from "../../src/index.ts";
import { codeOf } from "../harness/codes.ts";
import { type Forgery, whileForged } from "../harness/forgery.ts";
import { library, libraryConfig, seed, versionsOf } from "../harness/library.ts";
import { run, testInstall } from "../harness/program.ts";
import { changesNothing, expectRefusal, expectSilentAbout, type Refusal } from "../harness/refusal.ts";

/** Documents of the protocol that are half-written, forged or from a later release: each command names them and stops. */

const COMMANDS = {
  status: ["kek", "status"],
  verify: ["kek", "verify"],
  target: ["kek", "verify", "--target=2", "--no-backup-check"],
  rotate: ["kek", "rotate", "--to-version=2", "--no-backup-check"],
  cancel: ["kek", "rotate", "--cancel"],
  remove: ["kek", "remove", "--version=3"],
  list: ["audit", "list"],
  chain: ["audit", "verify"],
  serve: ["serve"],
};
type Command = keyof typeof COMMANDS;
const STATE: Command[] = ["status", "verify", "target", "rotate", "cancel", "remove", "serve"];
const ROSTER: Command[] = ["status", "verify", "target", "rotate"];
const FIELDS: Command[] = ["status", "verify", "rotate", "remove"];
// Others say on stderr what they are about to do, before they come to the log.
const APPENDS: Command[] = ["cancel", "list"];
const ALL = Object.keys(COMMANDS) as Command[];

// Version 1 active, 2 and 3 staged; a rotation 1 → 2 in phase 1 that nobody leads; nobody in the fleet.
const install = await testInstall();
const variables = install.variables([1, 2, 3], 2);
const seeder = await library(install, [1, 2, 3], 1, "seeder");
await seed(seeder, install, 5);
await seeder.close();
const now = new Date();
const ROTATION = {
  _id: 1,
  open: true,
  from: 1,
  to: 2,
  phase: 1,
  epoch: 3,
  state: "running",
  lease: { owner: null, token: 1, expires_at: new Date(0) },
  started_at: now,
  started_by: "cli gone pid 1",
  phase_times: { "1": now },
  fields: [],
  failed: [],
  fence: { versions: [], collections: [] },
};
const { open: _open, ...ENDED } = { ...ROTATION, state: "cancelled" };
await install.db.collection("kek_rotations").insertOne({ ...ROTATION } as never);
const HEARTBEAT = {
  _id: "5f6a1c1e-1111-4222-8333-444455556666",
  role: "api",
  host: "h",
  pid: 7,
  instance_name: "forged",
  provider: "env",
  loaded: [1, 2, 3],
  current_version: 2,
  write_version: 1,
  acked: { rotation: 1, epoch: 3, phase: 1 },
  started_at: now,
  updated_at: now,
};
const VERSION = { provider: "env", canary_digest: new Binary(new Uint8Array(32), 0), wraps: 1, staged_at: now };
const CANARY = new Binary(new Uint8Array(60), 0);
const AUDIT = { seq: 1000, at: now, actor: "x", event: "rotation.phase", data: {}, prev: "", mac: "" };

const rotation = (set: object): Forgery => ({ collection: "kek_rotations", id: 1, set: set as Forgery["set"] });
const versionDoc = (set: object, id = 1): Forgery => ({ collection: "kek_versions", id, set: set as Forgery["set"] });
const added = (collection: string, set: object): Forgery => ({ collection, set: set as Forgery["set"] });
const lock = (set: object): Forgery => ({ collection: "kek_install", id: "kek_install", set: set as Forgery["set"] });

const invalid = (error: RegExp): Refusal => ({
  exit: 3,
  code: "document_invalid",
  error,
  hint: /nothing is decided by it/,
});
const newer = (error: RegExp): Refusal => ({ exit: 3, code: "unsupported_format", error, hint: /update this program/ });

const CASES: [string, Forgery, Refusal, Command[]][] = [
  [
    "a rotation that is a number and a mark only",
    { ...added("kek_rotations", { _id: 9, open: true, epoch: 9 }), withoutIndex: "one_open" },
    invalid(/kek_rotations: (document 9: it has no from|more than one rotation is open)/),
    STATE,
  ],
  ["a rotation without an epoch", rotation({ epoch: undefined }), invalid(/kek_rotations: .*no epoch/), STATE],
  ["a phase that is text", rotation({ phase: "1" }), invalid(/kek_rotations: .*phase is not a number/), STATE],
  ["a phase 4", rotation({ phase: 4 }), newer(/kek_rotations: .*phase is 4/), STATE],
  ["a state of a later release", rotation({ state: "paused" }), newer(/kek_rotations: .*state is "paused"/), STATE],
  ["a later format", rotation({ format: 2 }), newer(/kek_rotations: .*format is 2/), STATE],
  ["a rotation from 1 to 1", rotation({ to: 1 }), invalid(/kek_rotations: .*to the same one/), STATE],
  ["a rotation to nowhere", rotation({ to: 7 }), invalid(/kek_versions: .*1 → 7.*no version 7/), STATE],
  [
    "a rotation between others than the active one",
    rotation({ from: 3 }),
    invalid(/kek_versions: .*1 is active/),
    STATE,
  ],
  [
    "a lease without an end",
    rotation({ "lease.expires_at": "soon" }),
    invalid(/lease\.expires_at is not a time/),
    STATE,
  ],
  ["an open rotation without a lease", rotation({ lease: null }), invalid(/kek_rotations: .*no lease/), STATE],
  ["a running rotation that is not marked", rotation({ open: undefined }), invalid(/not marked as open/), STATE],
  ["a fence without lists", rotation({ fence: {} }), invalid(/kek_rotations: .*no fence\.versions/), STATE],
  [
    "a fence that holds no validator",
    rotation({ "fence.collections": [{ collection: "secrets", own: "{", expected: "{}" }] }),
    invalid(/fence\.collections\.0\.own is not a validator/),
    STATE,
  ],
  [
    "a second rotation of the same epoch",
    added("kek_rotations", { ...ENDED, _id: 2 }),
    invalid(/kek_rotations: documents [12] and [12] have the same epoch, 3/),
    STATE,
  ],
  [
    "a later rotation that has ended, beside the open one",
    added("kek_rotations", { ...ENDED, _id: 2, epoch: 8 }),
    invalid(/kek_rotations: document 1: it is open, and not the newest/),
    STATE,
  ],
  [
    "a rotation whose number is text",
    added("kek_rotations", { ...ENDED, _id: "2", epoch: 1 }),
    invalid(/kek_rotations: document "2": its _id is not a number/),
    STATE,
  ],
  ["a canary that is text", versionDoc({ canary: "text" }), invalid(/kek_versions: document 1: its canary/), STATE],
  ["a version without a canary", versionDoc({ canary: undefined }, 3), invalid(/kek_versions: .*canary/), STATE],
  ["wraps that are text", versionDoc({ wraps: "many" }), invalid(/kek_versions: .*wraps is not a number/), STATE],
  ["a version's state of a later release", versionDoc({ state: "frozen" }, 3), newer(/state is "frozen"/), STATE],
  ["no active version", versionDoc({ state: "retired" }), invalid(/kek_versions: no version is active/), STATE],
  [
    "two active versions",
    { ...versionDoc({ state: "active" }, 3), withoutIndex: "one_active" },
    invalid(/kek_versions: (more than one version is active|versions 1 and 3 are active)/),
    STATE,
  ],
  [
    "a version whose number is text",
    added("kek_versions", { ...VERSION, _id: "4", state: "staged", canary: CANARY }),
    invalid(/kek_versions: document "4": its _id/),
    STATE,
  ],
  [
    "a heartbeat that is an _id only",
    added("process_heartbeats", { _id: "half" }),
    invalid(/process_heartbeats: document "half": it has no role/),
    ROSTER,
  ],
  [
    "a heartbeat at a time that is text",
    added("process_heartbeats", { ...HEARTBEAT, updated_at: "now" }),
    invalid(/process_heartbeats: .*updated_at is not a time/),
    ROSTER,
  ],
  [
    "an acknowledgement that is text",
    added("process_heartbeats", { ...HEARTBEAT, acked: "yes" }),
    invalid(/process_heartbeats: .*acked is not a subdocument/),
    ROSTER,
  ],
  [
    "loaded versions that are text",
    added("process_heartbeats", { ...HEARTBEAT, loaded: "1,2" }),
    invalid(/process_heartbeats: .*loaded is not a list/),
    ROSTER,
  ],
  [
    "an acknowledged phase 4",
    added("process_heartbeats", { ...HEARTBEAT, acked: { rotation: 1, epoch: 3, phase: 4 } }),
    newer(/process_heartbeats: .*acked\.phase is 4/),
    ROSTER,
  ],
  ["a lock of a later provider", lock({ provider: "kmip" }), newer(/kek_install: .*provider is "kmip"/), ALL],
  ["a lock without a time", lock({ locked_at: "then" }), invalid(/kek_install: .*locked_at is not a time/), ALL],
  ["a lock without an install", lock({ install_id: undefined }), invalid(/kek_install: .*no install_id/), ALL],
  [
    "a field that is an _id only",
    added("kek_fields", { _id: "a:b" }),
    invalid(/kek_fields: document "a:b": it has no collection/),
    FIELDS,
  ],
  [
    "a field in a collection of our own",
    added("kek_fields", { _id: "kek_versions:canary", collection: "kek_versions", path: "canary" }),
    invalid(/kek_fields: .*kek_versions is this program's own/),
    FIELDS,
  ],
  [
    "a field that is an operator",
    added("kek_fields", { _id: "a:$where", collection: "a", path: "$where" }),
    invalid(/kek_fields: .*no path of a field/),
    FIELDS,
  ],
  [
    "a last audit entry without a place",
    added("audit_log", { ...AUDIT, seq: "z" }),
    invalid(/audit_log: document "z": its seq is not a number/),
    APPENDS,
  ],
  [
    "a last audit entry at no time",
    added("audit_log", { ...AUDIT, at: 5 }),
    invalid(/audit_log: document 1000: its at is not a time/),
    APPENDS,
  ],
];

/** The first case of a collection meets every command; the others two of them, in turns, and the library. */
function commandsFor(what: string, { collection }: Forgery, commands: Command[]): Command[] {
  const at = CASES.findIndex(([name]) => name === what);
  if (CASES.findIndex(([, forgery]) => forgery.collection === collection) === at) return commands;
  return [0, 1].map((turn) => commands[(2 * at + turn) % commands.length] as Command);
}

test.each(
  CASES,
)("%s: named by the commands that meet it, exit 3, and nothing changes", async (what, forgery, refusal, met) => {
  const commands = commandsFor(what, forgery, met);
  await whileForged(install, forgery, async () => {
    const ran = await changesNothing(install.db, () =>
      Promise.all(commands.map((name) => run([...COMMANDS[name], "--json"], variables))),
    );
    for (const each of ran) {
      expectRefusal(each, refusal, true);
      expectSilentAbout(each, Object.values(install.keks));
    }
    if (!met.includes("serve")) return;
    expect(await codeOf(() => openFieldEncryption(libraryConfig(install, [1, 2, 3], 2, "late")))).toBe(refusal.code);
  });
});

test("an audit entry that cannot be read is a fault of the chain, and those after it are walked", async () => {
  await whileForged(install, added("audit_log", { ...AUDIT, at: "then", data: new Int32(5) }), async () => {
    const ran = await changesNothing(install.db, () => run([...COMMANDS.chain, "--json"], variables));
    expect(ran.code).toBe(3);
    expect(ran.stderr).toMatch(/^error: the audit chain is broken: .*audit_log: document 1000/);
    expect(ran.json).toMatchObject({
      whole: false,
      faults: [{ reason: expect.stringContaining("its at is not a time") }],
    });
  });
});

test("members that nobody knows yet, numbers of any width and a role of a later release are let pass", async () => {
  const more = { hint: "from a later release", paused_by: { a: [1] }, epoch: Long.fromNumber(3) };
  await whileForged(install, rotation(more), async () => {
    const heartbeat = added("process_heartbeats", { ...HEARTBEAT, role: "auditor", cpu: 0.5, updated_at: new Date() });
    await whileForged(install, heartbeat, async () => {
      const names: Command[] = ["status", "list", "chain"];
      const ran = await Promise.all(names.map((name) => run([...COMMANDS[name], "--json"], variables)));
      expect(ran.map(({ code, stderr }) => [code, stderr])).toEqual(names.map(() => [0, ""]));
      expect(ran[0]?.json.processes).toMatchObject([{ name: "forged", role: "auditor" }]);
      const dry = await run([...COMMANDS.rotate, "--dry-run", "--json"], variables);
      expect([dry.code, dry.json.dry_run]).toEqual([0, true]);
    });
  });
});

test("what was forged has left no trace: the rotation continues and completes", async () => {
  const ran = await run([...COMMANDS.rotate, "--json"], variables);
  expect({ code: ran.code, stderr: ran.stderr }).toMatchObject({ code: 0 });
  expect(ran.json).toMatchObject({ rotation: 1, state: "completed" });
  expect(await versionsOf(install)).toEqual({ "2": 5 });
  expect((await run([...COMMANDS.chain, "--json"], variables)).json).toMatchObject({ whole: true });
});
