import { expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { kekHex, stop, type TestInstall } from "../harness/program.ts";
import { CALM, kek, rotating, seededInstall, serveAll } from "../harness/schedule.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** `kek verify --backup=FILE` proves a copy of the secrets, and `rotate --require-backup` asks for that proof. */

const directory = scratchDirectory();

function copy(name: string, keks: Record<number, string>): string {
  const file = join(directory, name);
  const lines = Object.entries(keks).map(([version, hex]) => `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}=${hex}\n`);
  writeFileSync(file, lines.join(""), { mode: 0o600 });
  return file;
}

const some = (install: TestInstall, ...versions: number[]) =>
  Object.fromEntries(versions.map((version) => [version, install.keks[version] as string]));

test("a copy that lacks a key, has other bytes or is open to others proves nothing; a whole one lets rotate go", async () => {
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
  expect([whole.code, whole.json.versions]).toEqual([0, [1, 2]]);
  expect((await rotate("--to-version=2")).code).toBe(0);

  // A version that was left may be missing from the copy; one that is there is proved, for the way back.
  await install.db.collection("kek_versions").updateMany({}, { $unset: { backup_verified_at: "" } });
  expect((await backup(copy("only-2", some(install, 2)))).json.versions).toEqual([2]);
  expect((await rotate("--to-version=1", "--from-version=2")).code).toBe(3);
  expect((await backup(copy("other-1", { ...some(install, 2), 1: kekHex() }))).code).toBe(3);
  expect((await backup(copy("both", some(install, 1, 2)))).json.versions).toEqual([1, 2]);
  expect((await rotate("--to-version=1", "--from-version=2")).code).toBe(0);
  await stop(...fleet);
});
