import { expect, test } from "bun:test";
import { chmodSync, copyFileSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { library, seed, versionsOf } from "../harness/library.ts";
import { BINARY, run, start, startCommand, stop, type TestInstall, testInstall, until } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** deploy/schedule/certautopilot-rotate: what it does in each state that it may find, under the shell that is there. */

const bin = scratchDirectory();
const SCRIPT = join(import.meta.dir, "../../deploy/schedule/certautopilot-rotate");
symlinkSync(BINARY, join(bin, "certautopilot"));
copyFileSync(SCRIPT, join(bin, "certautopilot-rotate"));
chmodSync(join(bin, "certautopilot-rotate"), 0o755);

/** Another than /bin/sh, with another awk, where there is one. */
const OTHER_SHELL = Bun.which("busybox") === null ? ["bash", "--posix"] : ["busybox", "sh"];

/** As cron runs it: /bin/sh, and hardly a variable. */
const scheduled = async (
  install: TestInstall,
  versions: number[],
  current: number,
  flags: string[] = [],
  shell = ["/bin/sh"],
) =>
  await startCommand([...(shell as [string]), join(bin, "certautopilot-rotate"), ...flags], {
    ...install.variables(versions, current),
    PATH: `${bin}:/usr/bin:/bin`,
  }).exited;
const events = async (install: TestInstall, name: string) =>
  await install.db.collection("audit_log").countDocuments({ event: name });

test("a schedule rotates when another version is declared, continues after a crash, and leaves the rest to people", async () => {
  const install = await testInstall();
  const none = await scheduled(install, [1], 1);
  expect(none.code, "no install at all").toBe(3);
  expect(none.stderr).toContain("holds no install");

  const first = await library(install, [1], 1, "seeder");
  await seed(first, install, 2000);
  await first.close();
  const alone = await scheduled(install, [1, 2], 2);
  expect([alone.code, alone.stderr]).toEqual([
    3,
    "certautopilot-rotate: no process of the fleet is running\ncertautopilot-rotate: next: start it: a rotation asks every process whether it is ready\n",
  ]);

  // Declared, and the key is not there: verify says it, and no refusal is audited.
  const keyless = await install.serve("keyless", [1], 2);
  const unready = await scheduled(install, [1, 2], 2);
  expect(unready.code).toBe(3);
  expect(unready.stderr).toContain("does not hold KEK version 2");
  expect(await events(install, "rotation.refused")).toBe(0);
  const other = await install.serve("other", [1, 2], 1);
  const mixed = await scheduled(install, [1, 2], 2);
  expect([mixed.code, mixed.stderr]).toEqual([3, expect.stringContaining("do not declare one version all alike")]);
  await stop(keyless, other);

  // A rotation whose command died is gone on with; one that somebody cancelled is not, and one at work is left alone.
  const fleet = await Promise.all(["a", "b"].map((name) => install.serve(name, [1, 2], 2)));
  // Nothing is verified here: with the option for it the schedule refuses, and otherwise starts (see the pods' test).
  const unverified = await scheduled(install, [1, 2], 2, ["--require-backup"]);
  expect([unverified.code, unverified.stderr]).toEqual([3, expect.stringContaining("no backup has been verified")]);
  const slow = start(
    ["kek", "rotate", "--to-version=2", "--no-backup-check", "--max-rate=200", "--yes"],
    install.variables([1, 2], 2),
  );
  await until("records move", async () => ((await versionsOf(install))["2"] ?? 0) > 0);
  const beside = await scheduled(install, [1, 2], 2);
  expect([beside.code, beside.stdout]).toEqual([
    0,
    "nothing to do: a rotation to KEK version 2 is running, and continues automatically\n",
  ]);
  expect((await run(["kek", "rotate", "--cancel"], install.variables([1, 2], 2))).code).toBe(0);
  expect((await slow.exited).code).toBe(5);
  const cancelled = await scheduled(install, [1, 2], 2);
  expect([cancelled.code, cancelled.stderr]).toEqual([
    3,
    expect.stringContaining("was cancelled, and is not gone on with"),
  ]);

  const resumed = start(
    ["kek", "rotate", "--to-version=2", "--no-backup-check", "--max-rate=200", "--yes"],
    install.variables([1, 2], 2),
  );
  const before = (await versionsOf(install))["2"] ?? 0;
  await until("records move again", async () => ((await versionsOf(install))["2"] ?? 0) > before);
  resumed.kill("SIGKILL");
  await resumed.exited;
  await until("its lease is over", async () => {
    const rotation = await install.db.collection("kek_rotations").findOne({ open: true });
    return rotation?.["lease"] === null || rotation?.["lease"].expires_at < new Date();
  });
  const after = await scheduled(install, [1, 2], 2, ["--batch-size=500"], OTHER_SHELL);
  expect(after.code, after.stderr).toBe(0);
  expect(after.stderr).toContain("going on with the rotation to KEK version 2, whose command is gone");
  expect(await versionsOf(install)).toEqual({ "2": 2000 });

  // Nothing to do, until the version is due and nobody has declared the next.
  const idle = await scheduled(install, [1, 2], 2);
  expect([idle.code, idle.stdout, idle.stderr]).toEqual([
    0,
    "nothing to do: KEK version 2 is active, and declared by the whole fleet\n",
    "",
  ]);
  const long = new Date(Date.now() - 400 * 86_400_000);
  await install.db.collection("kek_versions").updateOne({ _id: 2 as never }, { $set: { first_activated_at: long } });
  const due = await scheduled(install, [1, 2], 2);
  expect([due.code, due.stderr]).toEqual([
    3,
    expect.stringContaining("KEK version 2 is overdue, and the fleet declares no other"),
  ]);
  expect(due.stderr).toContain("make the key of version 3, give it to every process");
  await stop(...fleet);
});

test("a setting that is wrong comes out as it is", async () => {
  const install = await testInstall();
  const wrong = await startCommand([join(bin, "certautopilot-rotate")], {
    PATH: `${dirname(BINARY)}:${bin}:/usr/bin:/bin`,
  });
  expect((await wrong.exited).code).toBe(2);
  const twice = await scheduled(install, [1], 1, ["--nonsense"]);
  expect(twice.code).toBe(3);
});
