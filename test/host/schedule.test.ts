import { afterAll, expect, test } from "bun:test";
import { chmodSync, copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { HOST_ROOT, type Host, startHost } from "../harness/host.ts";
import { library, seed, versionsOf } from "../harness/library.ts";
import { BINARY, FAST, stop, type TestInstall, testInstall, until } from "../harness/program.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** The timer and the cron line of deploy/, as they are but for the hour, by the systemd and the cron of a Debian host. */

const DEPLOY = join(import.meta.dir, "../../deploy");
const scratch = scratchDirectory();
const fleetFile = join(scratch, "secrets.env");
const hosts: Host[] = [];
afterAll(async () => {
  await Promise.all(hosts.map((host) => host.stop()));
});

/** The secrets of the host and of the fleet beside it, which reads them again at once. */
function declare(host: Host, install: TestInstall, versions: number[], current: number): void {
  const lines = [
    ...versions.map((version) => `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}=${install.keks[version]}`),
    `CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${current}`,
    "CERTAUTOPILOT_AUDIT_SECRET=audit-secret-of-the-tests",
    "",
  ].join("\n");
  for (const file of [fleetFile, host.path("/etc/certautopilot/secrets.env")])
    writeFileSync(file, lines, { mode: 0o600 });
}

/** The commands of a section of docs/scheduling.md. */
function commandsOf(section: string): string {
  const page = readFileSync(join(DEPLOY, "../docs/scheduling.md"), "utf8");
  const found = new RegExp(`\\n## ${section}\\n[^#]*?\\n\`\`\`sh\\n([^\`]+)\`\`\``).exec(page)?.[1];
  if (found === undefined) throw new Error(`docs/scheduling.md has no commands under ${section}`);
  return found;
}

async function layDown(host: Host, install: TestInstall): Promise<void> {
  copyFileSync(BINARY, host.path("/usr/local/bin/certautopilot"));
  chmodSync(host.path("/usr/local/bin/certautopilot"), 0o755);
  // Where a checkout would be.
  cpSync(DEPLOY, host.path("/root/deploy"), { recursive: true });
  const fleet = `{ beat_ms: ${FAST.beatMs}, lease_ms: ${FAST.leaseMs}, eviction_ms: ${FAST.evictionMs}, drain_ms: ${FAST.drainMs} }`;
  const config = `database: { uri: "${install.uri}", name: ${install.name} }\nsecrets_file: /etc/certautopilot/secrets.env\nfleet: ${fleet}\n`;
  await host.run(["useradd", "--system", "--user-group", "certautopilot"], { check: true });
  await host.run(["install", "-d", "-m", "755", "/etc/certautopilot"], { check: true });
  writeFileSync(host.path("/etc/certautopilot/config.yaml"), config);
  declare(host, install, [1, 2], 1);
  await host.run(["chown", "certautopilot:", "/etc/certautopilot/secrets.env"], { check: true });
}

test.skipIf(HOST_ROOT === undefined)("a timer, cron and an operator rotate with the same events", async () => {
  const host = await startHost({ boot: true });
  hosts.push(host);
  const install = await testInstall();
  await layDown(host, install);
  const settings = { CERTAUTOPILOT_SECRETS_FILE: fleetFile };
  const fleet = await Promise.all(["a", "b"].map((name) => install.serve(name, [], undefined as never, settings)));
  const writer = await library(install, [1], 1, "seeder");
  await seed(writer, install, 200);
  await writer.close();

  const log = install.db.collection("audit_log");
  const eventsAfter = async (seq: number) =>
    (
      await log
        .find({ seq: { $gt: seq } })
        .sort({ seq: 1 })
        .toArray()
    )
      // What versions are called differs, and when summaries of progress fall.
      .filter(({ event }) => event !== "version.staged" && event !== "rotation.progress")
      .map(({ event, data }) => `${event} ${data["phase"] ?? ""}`);
  /** Declares a version, has it rotated to, and tells the events. */
  const rotated = async (to: number, start: () => Promise<unknown>) => {
    declare(host, install, [1, 2, 3, 4].slice(0, to), to);
    await until(`the fleet declares ${to}`, async () => {
      const beats = await install.db.collection("process_heartbeats").find().toArray();
      return beats.every((beat) => beat["current_version"] === to && beat["loaded"].includes(to));
    });
    const before = await log.countDocuments();
    await start();
    await until(
      `version ${to} is active`,
      async () => (await log.countDocuments({ event: "rotation.completed" })) === to - 1,
    );
    expect(await versionsOf(install)).toEqual({ [to]: 200 });
    return await eventsAfter(before);
  };

  await host.run(["sh", "-ec", commandsOf("systemd")], { check: true });
  expect((await host.run(["systemctl", "is-enabled", "certautopilot-rotate.timer"])).stdout).toBe("enabled\n");
  const units = (verb: string) =>
    host.run(["systemd-analyze", verb, "certautopilot-rotate.service", "certautopilot-rotate.timer"]);
  expect(await units("verify")).toEqual({ code: 0, stdout: "", stderr: "" });
  const { stdout: security } = await host.run([
    "systemd-analyze",
    "security",
    "--no-pager",
    "certautopilot-rotate.service",
  ]);
  expect(Number(/exposure level for \S+: ([\d.]+)/.exec(security)?.[1])).toBeLessThanOrEqual(2);

  // The timer, with its hour moved by a drop-in as docs/scheduling.md says.
  const byTimer = await rotated(2, async () => {
    const dropIn = "[Timer]\nOnCalendar=\nOnActiveSec=0\nRandomizedDelaySec=0\nAccuracySec=10ms\n";
    mkdirSync(host.path("/etc/systemd/system/certautopilot-rotate.timer.d"));
    writeFileSync(host.path("/etc/systemd/system/certautopilot-rotate.timer.d/soon.conf"), dropIn);
    await host.run(["systemctl", "daemon-reload"], { check: true });
    await host.run(["systemctl", "restart", "certautopilot-rotate.timer"], { check: true });
  });
  const property = async (name: string) =>
    (await host.run(["systemctl", "show", "--value", "-p", name, "certautopilot-rotate.service"])).stdout.trim();
  await until("the unit has ended", async () => (await property("ActiveState")) === "inactive");
  expect(await property("Result")).toBe("success");

  // cron, with @reboot in place of the hour: it is run when cron starts.
  const line = readFileSync(join(DEPLOY, "cron/certautopilot-rotate"), "utf8");
  const byCron = await rotated(3, async () => {
    await host.run(["systemctl", "stop", "cron"], { check: true });
    await host.run(["rm", "-f", "/run/crond.reboot"], { check: true });
    await host.run(["sh", "-ec", commandsOf("cron")], { check: true });
    writeFileSync(host.path("/etc/cron.d/certautopilot-rotate"), line.replace("0 3 * * 6", "@reboot"), { mode: 0o644 });
    await host.run(["systemctl", "start", "cron"], { check: true });
  });
  const byHand = await rotated(4, async () => {
    const operator = [
      "runuser",
      "-u",
      "certautopilot",
      "--",
      "certautopilot",
      "kek",
      "rotate",
      "--to-version=4",
      "--no-backup-check",
    ];
    expect((await host.run(operator)).stderr).toContain("phase 3");
  });
  expect(byTimer).toContain("rotation.completed ");
  expect(byTimer).toEqual(byHand);
  expect(byCron).toEqual(byHand);

  // Declared, and no process has the key: the unit fails, somebody is told, nothing has changed.
  declare(host, install, [1, 2, 3, 4], 5);
  await until(
    "the fleet declares 5",
    async () => (await install.db.collection("process_heartbeats").countDocuments({ current_version: 5 })) === 2,
  );
  const before = await log.countDocuments();
  expect((await host.run(["systemctl", "start", "certautopilot-rotate.service"])).code).not.toBe(0);
  expect(await property("ExecMainStatus")).toBe("3");
  const journal = async () => (await host.run(["journalctl", "--no-pager", "-o", "cat"])).stdout;
  await until("somebody is told", async () => (await journal()).includes("the scheduled KEK rotation failed"));
  expect(await journal()).toContain("KEK version 5 is not known: no process of the fleet holds it");
  expect(await log.countDocuments()).toBe(before);
  for (const kek of Object.values(install.keks)) expect(await journal()).not.toContain(kek);
  await stop(...fleet);
});
