import { expect, test } from "bun:test";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type HsmInstall, hsmInstall, keksIn, made, proveHsm, seededHsm } from "../harness/hsm_install.ts";
import { BINARY, type Ran, run, start, stop, until, type Variables } from "../harness/program.ts";
import { changesNothing, dump, expectRefusal } from "../harness/refusal.ts";
import { movedTo } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { onTerminal } from "../harness/terminal.ts";
import { PIN } from "../harness/token.ts";

/** A token's PIN: where it may come from, and that it is nowhere to be seen. */

const scratch = scratchDirectory();
const INIT = ["kek", "pkcs11-init", "--version=1"];
let files = 0;

/** A file with this content and mode. */
function fileOf(content: string, mode = 0o600): string {
  files += 1;
  const path = join(scratch, `file-${files}`);
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

/** The variables of an install, without a PIN unless these give one. */
function withoutPin(install: HsmInstall, current?: number, over: Variables = {}): Variables {
  const { CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: _, ...variables } = install.variables(current);
  return { ...variables, ...over };
}

const pinFile = (path: string) => ({ CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN_FILE: path });

/** The PIN as it is, and as it would look in a dump. */
const DISGUISES = [PIN, Buffer.from(PIN).toString("base64").replace(/=+$/, ""), Buffer.from(PIN).toString("hex")];

function expectNoPin(what: string, text: string): void {
  for (const disguise of DISGUISES)
    expect({ what, holdsPin: text.includes(disguise) }).toEqual({ what, holdsPin: false });
}

test("from a file of mode 0600 that holds one line, from the secrets file, from config.yaml in quotes", async () => {
  const install = await hsmInstall();
  for (const content of [PIN, `${PIN}\n`, `${PIN}\r\n`]) {
    const ran = await run(INIT, withoutPin(install, undefined, pinFile(fileOf(content))));
    expect({ content, code: ran.code, stderr: ran.stderr }).toEqual({ content, code: 0, stderr: "" });
  }
  const secrets = fileOf(`CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN=${PIN}\n`);
  expect((await run(INIT, withoutPin(install, undefined, { CERTAUTOPILOT_SECRETS_FILE: secrets }))).code).toBe(0);
  const config = fileOf(`encryption: { pkcs11: { pin: "${PIN}" } }\n`);
  expect((await run([...INIT, `--config=${config}`], withoutPin(install))).code).toBe(0);
  expect((await run(INIT, install.variables())).code).toBe(0);
  // The environment comes before a file.
  install.token.shim.set({ logins: 0 });
  const wrong = withoutPin(install, undefined, { CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: "wrong-pin-99999" });
  const refusedPin = await run(INIT, { ...wrong, ...pinFile(fileOf(PIN)) });
  expectRefusal(refusedPin, { exit: 8, code: "hsm_pin", error: /refused/, hint: /from CERTAUTOPILOT_.*_PIN / }, false);
  expect(install.token.shim.get("logins")).toBe(1);
});

test("a file that others can read, cannot be read, or is no PIN is refused before the token is asked", async () => {
  const install = await hsmInstall();
  const { shim } = install.token;
  const refused = async (over: Variables, exit: number, code: string, error: RegExp, words = INIT) => {
    shim.set({ initialized: 0, logins: 0 });
    await changesNothing(install.db, async () => {
      for (const more of [[], ["--json"], ["--debug"]]) {
        const ran = await run([...words, ...more], withoutPin(install, undefined, over));
        expectNoPin("output", ran.stdout + ran.stderr);
        if (more[0] !== "--debug") expectRefusal(ran, { exit, code, error }, more[0] === "--json");
        else expect([ran.code, error.test(ran.stderr)]).toEqual([exit, true]);
      }
    });
    expect(shim.get("logins")).toBe(0);
  };
  for (const mode of [0o644, 0o640, 0o604, 0o660]) {
    const path = fileOf(PIN, mode);
    const error = new RegExp(`PIN file ${path} has mode 0${mode.toString(8)}: others can read it`);
    await refused(pinFile(path), 2, "secrets_file_exposed", error);
  }
  await refused(pinFile(join(scratch, "missing")), 2, "secret_unreadable", /PIN file .*missing cannot be read/);
  await refused(pinFile(scratch), 2, "secret_unreadable", /PIN file/);
  await refused(pinFile(fileOf("")), 2, "secret_unreadable", /does not hold one line/);
  await refused(pinFile(fileOf("\n")), 2, "secret_unreadable", /does not hold one line/);
  await refused(pinFile(fileOf(`${PIN}\nanother line\n`)), 2, "secret_unreadable", /does not hold one line/);
  // What an editor or a shell leaves behind would cost a try at the token.
  const SPOILT: [string, RegExp][] = [
    [`\uFEFF${PIN}\n`, /begins with a byte order mark/],
    [`"${PIN}"\n`, /holds the PIN in quotes/],
    [`'${PIN}'`, /holds the PIN in quotes/],
    [` ${PIN}`, /has a blank before or after/],
    [`${PIN} \n`, /has a blank before or after/],
    [`${PIN}\x15`, /has a control character in it/],
    [`\x1b[A${PIN}\n`, /has a control character in it/],
  ];
  for (const [content, error] of SPOILT) await refused(pinFile(fileOf(content)), 2, "secret_unreadable", error);
  for (const [pin, error] of [SPOILT[0], SPOILT[3], SPOILT[5]] as typeof SPOILT)
    await refused({ CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: pin.trimEnd() }, 2, "config_invalid", error);
  const open = fileOf(`encryption: { pkcs11: { pin: "${PIN}" } }\n`, 0o644);
  await refused({}, 2, "secrets_file_exposed", /has mode 0644/, [...INIT, `--config=${open}`]);
  const digits = fileOf("encryption: { pkcs11: { pin: 0123456789 } }\n");
  await refused({}, 2, "config_invalid", /put the PIN in quotes/, [...INIT, `--config=${digits}`]);
});

test("typed on a terminal it is asked for once and shown nowhere", async () => {
  const install = await hsmInstall();
  const { shim } = install.token;
  const ASKED = 'PIN of token "certautopilot": ';
  const ask = (words: string[], keys: string, current?: number) =>
    onTerminal(words, withoutPin(install, current), [[ASKED, keys]]);

  const done = await ask(INIT, `${PIN}\r`);
  expect(done).toMatchObject({ code: 0, typed: true, echo_while_asked: [false] });
  expect(done.shown).toContain("version 1 is made");
  expectNoPin("terminal", done.shown);
  expect(done.shown.split(ASKED)).toHaveLength(2);
  // Corrected while typing, and with --debug and --json.
  const corrected = await ask([...INIT, "--debug", "--json"], `xy\x7f\x7f${PIN}\r`);
  expect(corrected).toMatchObject({ code: 0, echo_while_asked: [false] });
  expectNoPin("terminal", corrected.shown);
  // Keys that correct, and keys that mean nothing: never a part of the PIN, and no try at the token.
  for (const keys of [`wrong\x15${PIN}`, `wrong words\x17\x17${PIN}`, `\x1b[A\x1bOB${PIN}\x1b[3~\x1b[1;5C`]) {
    const repaired = await ask(INIT, `${keys}\r`);
    expect({ keys, code: repaired.code, asked: repaired.shown.split(ASKED).length }).toEqual({
      keys,
      code: 0,
      asked: 2,
    });
  }
  for (const key of ["\x1a", "\x1b", "\t", "\0"]) {
    shim.set({ logins: 0 });
    const again = await onTerminal(INIT, withoutPin(install), [
      [ASKED, `${PIN}${key}\r`],
      [ASKED, `${PIN}\r`],
    ]);
    expect({ key, code: again.code, tries: shim.get("logins") }).toEqual({ key, code: 0, tries: 1 });
    expect(again.shown).toContain("a control key was typed, and nothing was tried");
    expectNoPin("terminal", again.shown);
  }
  // A wrong one is tried once and not asked for again; nothing typed is no PIN; Ctrl-C ends it.
  shim.set({ logins: 0 });
  const wrong = await ask(INIT, "wrong-pin-99999\r");
  expect([wrong.code, shim.get("logins"), wrong.shown.includes("wrong-pin")]).toEqual([8, 1, false]);
  expect(wrong.shown.split(ASKED)).toHaveLength(2);
  expect(wrong.shown).toMatch(/hint: the PIN is from what was typed at the prompt.*supervisor/);
  const nothing = await ask(INIT, "\r");
  expect([nothing.code, nothing.shown.includes("no PIN is given")]).toEqual([8, true]);
  const interrupted = await ask(INIT, `${PIN.slice(0, 5)}\x03`);
  expect(interrupted.code).toBe(5);
  expect(shim.get("logins")).toBe(1);

  // Also for serve, and for a rotation, whose threads all log in with it.
  await made(install, 2);
  const serving = await onTerminal(["serve"], withoutPin(install, 1), [
    [ASKED, `${PIN}\r`],
    [" is ready on ", "\x03"],
  ]);
  expect(serving).toMatchObject({ code: 0, typed: true });
  expectNoPin("terminal", serving.shown);
  const rotated = await onTerminal(["kek", "rotate", "--to-version=2"], withoutPin(install, 2), [
    [ASKED, `${PIN}\r`],
    ["Start? [y/N] ", "y\n"],
  ]);
  expect({ code: rotated.code, typed: rotated.typed, shown: rotated.code === 0 || rotated.shown }).toEqual({
    code: 0,
    typed: true,
    shown: true,
  });
  expectNoPin("terminal", rotated.shown);
  // Where no cryptography is done nobody is asked, nor where nobody can answer.
  expect((await ask(["kek", "status"], "", 2)).shown).not.toContain(ASKED);
  const unasked = await run(INIT, withoutPin(install));
  expectRefusal(unasked, { exit: 8, code: "hsm_pin", error: /no PIN is given/, hint: /PIN_FILE/ }, false);
});

test("it is in no output, no audit event, no collection, no command line and no environment", async () => {
  const install = await seededHsm(400, [2]);
  const audit = join(scratch, "audit.jsonl");
  const given = { ...pinFile(fileOf(`${PIN}\n`)), CERTAUTOPILOT_AUDIT_FILE: audit, CERTAUTOPILOT_INSTANCE_NAME: "x" };
  const variables = withoutPin(install, 2, given);
  const seen: Ran[] = [];
  const see = async (words: string[], over: Variables = {}) => {
    for (const more of [["--debug"], ["--json", "--debug"]])
      seen.push(await run([...words, ...more], { ...variables, ...over }));
  };
  const serving = start(["serve", "--debug"], variables);
  await serving.says(" is ready on ");
  const rotating = start(
    ["kek", "rotate", "--to-version=2", "--debug", "--max-rate=100", "--batch-size=10"],
    variables,
  );
  await movedTo(install, 2, 50);
  for (const { pid } of [serving, rotating]) {
    expectNoPin("cmdline", readFileSync(`/proc/${pid}/cmdline`, "utf8"));
    expectNoPin("environ", readFileSync(`/proc/${pid}/environ`, "utf8"));
    for (const thread of readdirSync(`/proc/${pid}/task`))
      expectNoPin("comm", readFileSync(`/proc/${pid}/task/${thread}/comm`, "utf8"));
  }
  seen.push(await rotating.exited);
  expect(seen[0]?.code).toBe(0);
  for (const words of [["kek", "verify"], ["kek", "status"], ["kek", "verify", "--records"], INIT, ["audit", "list"]])
    await see(words);
  // And in what goes wrong: token, module, PIN, database, configuration.
  const OVER: Variables[] = [
    { CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL: "nobody's" },
    { CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: "/nowhere.so" },
    { CERTAUTOPILOT_ENCRYPTION_PROVIDER: "env" },
    { CERTAUTOPILOT_ENCRYPTION_PKCS11_SESSIONS: PIN },
    { CERTAUTOPILOT_DATABASE_URI: "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=500" },
  ];
  for (const over of OVER) await see(INIT, over);
  for (const loginCode of [0xa0, 0xa4, 0x5]) {
    install.token.shim.set({ loginCode });
    await see(["kek", "verify"]);
  }
  install.token.shim.set({ loginCode: 0, away: 0x30 });
  await see(["kek", "verify"]);
  install.token.shim.set({ away: 0 });
  await see([...INIT, `--pin=${PIN}`]);
  await stop(serving);
  seen.push(await serving.exited);
  for (const ran of seen) expectNoPin("output", ran.stdout + ran.stderr);
  expectNoPin("audit file", readFileSync(audit, "utf8"));
  const logins = await install.db.collection("kek_logins").find().toArray();
  expect(logins).toHaveLength(1);
  expectNoPin("database", JSON.stringify([await dump(install.db), logins]));
  // After a refusal no service sends a PIN from a variable before a command has shown that it is right.
  await run(["kek", "verify"], install.variables(2));
  await proveHsm(install, 2, 400);
});

const PATTERN = readFileSync("/proc/sys/kernel/core_pattern", "utf8").trim();

test.skipIf(/[|/%]/.test(PATTERN))("a core dump of a process that holds it does not hold it", async () => {
  const install = await hsmInstall();
  await made(install, 1);
  expect(keksIn(install.token)).toHaveLength(1);
  for (const [signal, over] of [
    ["SIGABRT", pinFile(fileOf(PIN))],
    ["SIGSEGV", pinFile(fileOf(PIN))],
    ["SIGQUIT", { CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: PIN }],
  ] as const) {
    const directory = join(scratch, signal);
    mkdirSync(directory);
    const env = { PATH: process.env["PATH"] ?? "", HOME: directory, ...withoutPin(install, 1, over) };
    const child = spawn("sh", ["-c", `ulimit -c unlimited && exec ${BINARY} serve`], { env, cwd: directory });
    let said = "";
    child.stderr.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
    const exited = new Promise((resolve) => child.once("close", resolve));
    await until("it is ready", async () => said.includes(" is ready on "));
    child.kill(signal);
    await exited;
    for (const name of readdirSync(directory)) {
      const holds = spawnSync("grep", ["-c", "-a", "-F", PIN, join(directory, name)], { encoding: "utf8" });
      expect({ signal, name, lines: holds.stdout.trim() }).toEqual({ signal, name, lines: "0" });
    }
    expectNoPin("last words", said);
    // Otherwise nothing was shown.
    expect({ signal, files: readdirSync(directory) }).toEqual({ signal, files: [expect.stringMatching(/^core/)] });
  }
});
