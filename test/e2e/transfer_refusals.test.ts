import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import { library, seed } from "../harness/library.ts";
import { BINARY, type Ran, run, startCommand, type TestInstall, testInstall } from "../harness/program.ts";
import { changesNothing, expectRefusal, expectSilentAbout, type Refusal } from "../harness/refusal.ts";
import { CALM } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { onTerminal } from "../harness/terminal.ts";
import { PASSPHRASE, passphraseFile } from "../harness/transfer.ts";

/** What `export` and `import` refuse: each says why, leaves no file and changes nothing. */

const SCRATCH = scratchDirectory();
const IDENTITY = await generateX25519Identity();
const RECIPIENT = await identityToRecipient(IDENTITY);
const identityFile = join(SCRATCH, "identity.txt");
writeFileSync(identityFile, `# made for a test\n${IDENTITY}\n`, { mode: 0o600 });
const COUNT = 40;

async function installed(count = 0): Promise<TestInstall> {
  const install = await testInstall(CALM);
  const seeder = await library(install, [1], 1, "seeder", CALM);
  if (count > 0) await seed(seeder, install, count);
  await seeder.close();
  return install;
}

const exporting = (file: string, ...flags: string[]) => [
  "export",
  `--out=${join(SCRATCH, file)}`,
  `--recipient=${RECIPIENT}`,
  ...flags,
];
const importing = (file: string) => ["import", `--in=${join(SCRATCH, file)}`, `--identity-file=${identityFile}`];

async function refuses(install: TestInstall, words: string[], refusal: Refusal, over = {}, events: string[] = []) {
  const files = readdirSync(SCRATCH);
  const ran = await changesNothing(
    install.db,
    () => run([...words, "--json"], install.variables([1], 1, over)),
    events,
  );
  expectRefusal(ran, refusal, true);
  expectSilentAbout(ran, [...Object.values(install.keks), IDENTITY, PASSPHRASE]);
  expect(readdirSync(SCRATCH)).toEqual(files);
}

test("export: what would give no whole archive, or one that others can read", async () => {
  const install = await installed(COUNT);
  await refuses(await installed(), exporting("none.age"), {
    exit: 3,
    code: "refused",
    error: /no field .* holds secrets/,
  });
  writeFileSync(join(SCRATCH, "there.age"), "");
  const there = { exit: 2, code: "archive_unwritable", error: /there\.age exists already/ };
  await refuses(install, exporting("there.age"), there);
  const nowhere = { exit: 2, code: "archive_unwritable", error: /nowhere\/a\.age cannot be written \(ENOENT\)/ };
  await refuses(install, exporting("nowhere/a.age"), nowhere);
  const other = { CERTAUTOPILOT_AUDIT_SECRET: "another-secret-of-the-tests" };
  await refuses(
    install,
    exporting("a.age"),
    { exit: 2, code: "audit_secret", error: /AUDIT_SECRET is another/ },
    other,
  );
  const short = passphraseFile(SCRATCH, "too short");
  const flags = ["export", `--out=${join(SCRATCH, "a.age")}`, `--passphrase-file=${short}`];
  await refuses(install, flags, { exit: 2, code: "usage", error: /fewer than 12 characters/ });
  // 20 Cyrillic letters as an old editor saves them: no byte of them is UTF-8.
  const oldEditor = join(SCRATCH, "cp1251");
  writeFileSync(oldEditor, Buffer.alloc(20, 0xe4), { mode: 0o600 });
  const guessable = ["export", `--out=${join(SCRATCH, "a.age")}`, `--passphrase-file=${oldEditor}`];
  await refuses(install, guessable, { exit: 2, code: "usage", error: /not text in UTF-8/ });
  const open = join(SCRATCH, "open");
  writeFileSync(open, PASSPHRASE, { mode: 0o644 });
  const exposed = ["export", `--out=${join(SCRATCH, "a.age")}`, `--passphrase-file=${open}`];
  await refuses(install, exposed, { exit: 2, code: "secrets_file_exposed", error: /others can read it/ });
  const lacking = { CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1: "", CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2: install.keks[2] };
  await refuses(install, exporting("a.age"), { exit: 2, code: "key_missing", error: /KEK version 1/ }, lacking);
});

test("a passphrase is asked twice on a terminal, and shown nowhere", async () => {
  const install = await installed(1);
  const words = ["export", `--out=${join(SCRATCH, "asked.age")}`];
  const typed = (second: string): [string, string][] => [
    ["Passphrase for the archive: ", `${PASSPHRASE}\r`],
    ["The same once more: ", `${second}\r`],
  ];
  const other = await onTerminal(words, install.variables([1], 1), typed(`${PASSPHRASE}!`));
  expect([other.code, other.shown]).toEqual([2, expect.stringContaining("the two passphrases are not the same")]);
  const done = await onTerminal(words, install.variables([1], 1), typed(PASSPHRASE));
  expect(done).toMatchObject({ code: 0, echo_while_asked: [false, false] });
  expect(done.shown + other.shown).not.toContain(PASSPHRASE.slice(0, 12));
  const script: [string, string][] = [["Passphrase of the archive: ", "another passphrase\r"]];
  const wrong = await onTerminal(["import", `--in=${join(SCRATCH, "asked.age")}`], install.variables([1], 1), script);
  expect([wrong.code, wrong.shown]).toEqual([2, expect.stringContaining("does not open with this passphrase")]);
});

test("export: records that do not open are all named, and left out only when it is asked for", async () => {
  const install = await installed(COUNT);
  const records = install.db.collection("secrets");
  await records.updateOne({ _id: 3 as never }, { $set: { "value.ciphertext": Buffer.alloc(25) } });
  await records.updateOne({ _id: 7 as never }, { $set: { value: "plaintext 27182818284" } });
  await records.insertOne({ _id: "list" as never, value: [] });
  const variables = install.variables([1], 1);
  const files = readdirSync(SCRATCH);
  const failed = await changesNothing(install.db, () => run([...exporting("broken.age"), "--json"], variables), [
    "secrets.export_started",
  ]);
  expect([failed.code, failed.json.exported, failed.json.failed]).toEqual([6, false, 3]);
  expect(failed.json.bad.map(({ id }: { id: string }) => id)).toEqual([
    '{"$numberInt":"3"}',
    '{"$numberInt":"7"}',
    '"list"',
  ]);
  expect(failed.stderr).toContain("error: 3 records cannot be opened, so no archive was written\nhint: ");
  expectSilentAbout(failed, ["plaintext 27182818284"]);
  expect(readdirSync(SCRATCH)).toEqual(files);

  const kept = await run([...exporting("partly.age", "--skip-broken"), "--json"], variables);
  expect({ code: kept.code, json: kept.json }).toMatchObject({ code: 0, json: { failed: 3, records: COUNT - 2 } });
  const fresh = await installed();
  const brought = await run([...importing("partly.age"), "--json"], fresh.variables([1], 1));
  expect(brought.json).toMatchObject({ left_out: 3, records: COUNT - 2, secrets: COUNT - 2 });
});

test("export: records that are written meanwhile are counted; --allow-changes keeps the archive", async () => {
  const install = await installed(COUNT);
  const records = install.db.collection("secrets");
  const whileWritten = async (...flags: string[]): Promise<Ran> => {
    let going = true;
    const writing = (async () => {
      for (let round = 0; going; round += 1) await records.updateOne({ _id: 5 as never }, { $set: { round } });
    })();
    try {
      return await run([...exporting("live.age", ...flags), "--json"], install.variables([1], 1));
    } finally {
      going = false;
      await writing;
    }
  };
  const refused = await whileWritten();
  expect({ code: refused.code, json: refused.json }).toMatchObject({
    code: 6,
    json: { exported: false, changes: { changed: 1, added: 0, removed: 0 } },
  });
  expect(refused.stderr).toContain("1 changed, 0 new, 0 removed");
  const kept = await whileWritten("--allow-changes");
  expect({ code: kept.code, json: kept.json }).toMatchObject({
    code: 0,
    json: { exported: true, changes: { changed: 1 } },
  });
});

test("export: no file where the directory can be written to and not read", async () => {
  const install = await installed(COUNT);
  const box = join(SCRATCH, "box");
  mkdirSync(box, { mode: 0o300 });
  // root reads every directory, unless this is taken from it.
  const asOthers = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
  const command = [...(process.getuid?.() === 0 ? asOthers : []), BINARY, ...exporting("box/a.age")];
  const ran = await startCommand(command as [string, ...string[]], install.variables([1], 1)).exited;
  chmodSync(box, 0o700);
  expect([ran.code, ran.stderr]).toEqual([2, expect.stringMatching(/box\/a\.age cannot be written \(EACCES\)/)]);
  expect(readdirSync(box)).toEqual([]);
});

test("an error's line does not speak to the terminal", async () => {
  const install = await installed();
  const ran = await run(importing("none\u001b[31m\u0007.age"), install.variables([1], 1));
  expect([ran.code, ran.stderr]).toEqual([2, expect.stringMatching(/none\?\[31m\?\.age cannot be read \(ENOENT\)/)]);
});

test("import: whatever is not whole, not for this key, or not into a fresh install", async () => {
  const old = await installed(COUNT);
  expect((await run(exporting("whole.age"), old.variables([1], 1))).code).toBe(0);
  const same = { exit: 3, code: "refused", error: /the very install that this archive was exported from/ };
  await refuses(old, importing("whole.age"), same);

  const fresh = await installed();
  const whole = readFileSync(join(SCRATCH, "whole.age"));
  const damaged = { exit: 6, code: "archive_damaged", error: /\.age is damaged: it was cut short or changed/ };
  for (const length of [30, 170, 220, 300, whole.length - 1]) {
    writeFileSync(join(SCRATCH, `cut-${length}.age`), whole.subarray(0, length));
    await refuses(fresh, importing(`cut-${length}.age`), damaged);
  }
  const changed = Buffer.from(whole);
  changed[whole.length - 40] = (changed[whole.length - 40] as number) ^ 1;
  writeFileSync(join(SCRATCH, "changed.age"), changed);
  await refuses(fresh, importing("changed.age"), damaged);
  writeFileSync(join(SCRATCH, "text.age"), "no archive\n");
  await refuses(fresh, importing("text.age"), {
    exit: 2,
    code: "archive_unreadable",
    error: /text\.age is no archive/,
  });
  await refuses(fresh, importing("nowhere.age"), {
    exit: 2,
    code: "archive_unreadable",
    error: /nowhere\.age cannot be read/,
  });
  execFileSync("mkfifo", [join(SCRATCH, "pipe.age")]);
  const pipe = { exit: 2, code: "archive_unreadable", error: /pipe\.age is not a file/ };
  await refuses(fresh, importing("pipe.age"), pipe);
  const byPassphrase = ["import", `--in=${join(SCRATCH, "whole.age")}`, `--passphrase-file=${passphraseFile(SCRATCH)}`];
  await refuses(fresh, byPassphrase, { exit: 2, code: "archive_unreadable", error: /sealed to age recipients/ });
  writeFileSync(identityFile, await generateX25519Identity(), { mode: 0o600 });
  await refuses(fresh, importing("whole.age"), { exit: 2, code: "archive_unreadable", error: /for other recipients/ });
  writeFileSync(identityFile, IDENTITY, { mode: 0o600 });

  const nothing = await testInstall(CALM);
  await refuses(nothing, importing("whole.age"), { exit: 3, code: "not_installed", error: /holds no install/ });
  const used = await installed(1);
  await refuses(used, importing("whole.age"), { exit: 3, code: "refused", error: /holds 1 secret already/ });
  await fresh.db.collection("secrets").insertOne({ _id: 1 as never });
  await refuses(fresh, importing("whole.age"), { exit: 3, code: "refused", error: /collection secrets holds records/ });
});
