import { expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { kekHex, run, stop, type TestInstall } from "../harness/program.ts";
import { CALM, endLease, kek, rotating, SLOWLY, seededInstall, serveAll } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** `kek verify --backup=FILE` verifies a copy of the secrets. `rotate` asks for that where it starts to a new key, and with `--require-backup` always. */

const directory = scratchDirectory();

function copy(name: string, keks: Record<number, string>): string {
  const file = join(directory, name);
  const lines = Object.entries(keks).map(([version, hex]) => `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}=${hex}\n`);
  writeFileSync(file, lines.join(""), { mode: 0o600 });
  return file;
}

const some = (install: TestInstall, ...versions: number[]) =>
  Object.fromEntries(versions.map((version) => [version, install.keks[version] as string]));

test("a copy that lacks a key, has other bytes or is open to others verifies nothing; a whole one lets rotate go", async () => {
  const install = await seededInstall(5, CALM);
  const fleet = await serveAll(install, "a");
  const backup = (file: string) => kek(install, "verify", `--backup=${file}`);
  const rotate = (...flags: string[]) => rotating(install, "--require-backup", ...flags).exited;
  const refused = await rotate("--to-version=2");
  expect(refused.code).toBe(3);
  expect(refused.stderr).toMatch(/^error: no backup .* KEK version 2\nhint: .*kek verify --backup=FILE/m);

  const cases: [string, number, RegExp][] = [
    [copy("lacks-2", some(install, 1)), 2, /holds no key for KEK version 2/],
    [copy("lacks-1", some(install, 2)), 2, /holds no key for KEK version 1/],
    [copy("other-2", { ...some(install, 1), 2: kekHex() }), 3, /version 2/],
    [copy("short-2", { ...some(install, 1), 2: "abcd" }), 2, /64 hex digits/],
    [join(directory, "nowhere"), 2, /nowhere/],
  ];
  for (const [file, code, message] of cases) {
    const ran = await backup(file);
    expect({ file, code: ran.code }).toEqual({ file, code });
    expect(ran.json.error.message).toMatch(message);
  }
  const open = copy("open", some(install, 1, 2));
  chmodSync(open, 0o644);
  expect((await backup(open)).code).toBe(2);
  expect((await rotate("--to-version=2")).code).toBe(3);

  const whole = await backup(copy("whole", some(install, 1, 2)));
  expect([whole.code, whole.json.versions, whole.json.unknown]).toEqual([0, [1, 2], []]);
  const live = copy("live", some(install, 1, 2));
  const itself = await run(
    ["kek", "verify", `--backup=${live}`],
    install.variables([], 2, { CERTAUTOPILOT_SECRETS_FILE: live }),
  );
  expect([itself.code, itself.stderr]).toEqual([
    2,
    expect.stringContaining("is the secrets file that this program runs with"),
  ]);
  // Of a key that no process has made known nothing is verified, and that is said.
  const more = await backup(copy("more", some(install, 1, 2, 4)));
  expect([more.code, more.json.versions, more.json.unknown]).toEqual([0, [1, 2], [4]]);
  expect(more.stderr).toContain("not verified: KEK version 4 of");
  expect((await rotate("--to-version=2")).code).toBe(0);

  // A version that was left may be missing from the copy; one that is there is verified, for the reverse rotation.
  await install.db.collection("kek_versions").updateMany({}, { $unset: { backup_verified_at: "" } });
  expect((await backup(copy("only-2", some(install, 2)))).json.versions).toEqual([2]);
  expect((await rotate("--to-version=1", "--from-version=2")).code).toBe(3);
  expect((await backup(copy("other-1", { ...some(install, 2), 1: kekHex() }))).code).toBe(3);
  expect((await backup(copy("both", some(install, 1, 2)))).json.versions).toEqual([1, 2]);
  expect((await rotate("--to-version=1", "--from-version=2")).code).toBe(0);
  await stop(...fleet);
});

test("a rotation to a new key in a file starts only with a verified backup, or when told to do without", async () => {
  const install = await seededInstall(5, CALM);
  const fleet = await serveAll(install, "a");
  const rotate = async (...flags: string[]) =>
    await run(["kek", "rotate", ...flags, "--json"], install.variables([1, 2], 2));
  for (const flags of [[], ["--dry-run"]]) {
    const refused = await rotate("--to-version=2", ...flags);
    expect([refused.code, refused.json.error.code]).toEqual([3, "refused"]);
    expect(refused.json.error.hint).toContain("certautopilot kek verify --backup=FILE");
    expect(refused.json.error.hint).toContain("--no-backup-check");
  }
  expect(await install.db.collection("kek_rotations").countDocuments()).toBe(0);
  expect((await kek(install, "verify", `--backup=${copy("default", some(install, 1, 2))}`)).code).toBe(0);
  expect((await rotate("--to-version=2")).code).toBe(0);
  // Records were under version 1 before: nothing new would be lost with it.
  await install.db.collection("kek_versions").updateMany({}, { $unset: { backup_verified_at: "" } });
  expect((await rotate("--to-version=1", "--from-version=2")).code).toBe(0);
  await stop(...fleet);

  const other = await seededInstall(5, CALM);
  const started = rotating(other, "--to-version=2", "--no-backup-check", ...SLOWLY);
  await started.says("phase 2");
  started.kill("SIGKILL");
  await started.exited;
  await endLease(other);
  // An open rotation must be able to end.
  const resumed = await run(["kek", "rotate", "--to-version=2", "--json"], other.variables([1, 2], 2));
  expect(resumed.code).toBe(0);
});
