import { expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { HELM, only, render } from "../harness/chart.ts";
import { library } from "../harness/library.ts";
import { POD, podNode } from "../harness/pod.ts";
import { FAST, stop, type TestInstall, testInstall, until } from "../harness/program.ts";
import { seed, versionsOf } from "../harness/records.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { PIN, SOFTHSM, testToken } from "../harness/token.ts";

/** What the chart renders, run. Only the kubelet is missing. */

const scratch = scratchDirectory();
const SECRETS = "/etc/certautopilot/secrets";
const AUDIT_SECRET = "CERTAUTOPILOT_AUDIT_SECRET=audit-secret-of-the-tests\n";
const testAsRoot = test.skipIf(HELM === undefined || process.getuid?.() !== 0);

function node(name: string) {
  const directory = join(scratch, name);
  mkdirSync(directory);
  execFileSync("chmod", ["755", scratch]);
  return podNode(directory);
}

function keys(install: TestInstall, versions: number[], current: number): { "secrets.env": string } {
  const keks = versions.map((version) => `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}=${install.keks[version]}\n`);
  return {
    "secrets.env": `${keks.join("")}CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${current}\n${AUDIT_SECRET}`,
  };
}

testAsRoot("pods load new keys without a restart, and rotate by schedule and by Job alike", async () => {
  const install = await testInstall();
  const { uri } = install;
  const { mount, path, run } = node("env");
  mount(SECRETS, 1, keys(install, [1], 1));
  const manifests = await render({
    secrets: { existingSecret: "kek" },
    mongodb: { existingSecret: "mongo", database: install.name },
    fleet: FAST,
    fields: ["secrets:value"],
    rotate: { job: { enabled: true, toVersion: 3 }, cronJob: { enabled: true }, extraArgs: ["--no-backup-check"] },
  });
  const [deployment, job, cronJob] = ["Deployment", "Job", "CronJob"].map((kind) => only(manifests, kind));
  const log = install.db.collection("audit_log");
  const eventsAfter = async (seq: number) =>
    (
      await log
        .find({ seq: { $gt: seq } })
        .sort({ seq: 1 })
        .toArray()
    ).map(({ event, data }) => `${event} ${data["phase"] ?? ""}`);
  const declared = async (version: number) =>
    await until(`every pod declares ${version}`, async () => {
      const beats = await install.db.collection("process_heartbeats").find().toArray();
      return beats.every((beat) => beat["current_version"] === version && beat["loaded"].includes(version));
    });

  const pods = ["pod-a", "pod-b"].map((name) => run(deployment, { uri, name }));
  for (const pod of pods) await pod.says(" is ready on ");
  const address = /ready on (\S+),/.exec(pods[0]?.stderr ?? "")?.[1] ?? "";
  const [container] = deployment.spec.template.spec.containers;
  for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"])
    expect((await fetch(address + container[probe].httpGet.path)).status).toBe(200);
  const writer = await library(install, [1], 1, "writer");
  await seed(writer, install, 300);
  await writer.close();
  const idle = await run(cronJob, { uri, name: "cron" }).exited;
  expect([idle.code, idle.stdout]).toEqual([0, expect.stringContaining("nothing to do: KEK version 1 is active")]);

  mount(SECRETS, 2, keys(install, [1, 2], 2));
  await declared(2);
  const beforeSchedule = await log.countDocuments();
  const scheduled = await run(cronJob, { uri, name: "cron" }).exited;
  expect(scheduled.code, scheduled.stderr).toBe(0);
  expect(await versionsOf(install)).toEqual({ "2": 300 });
  const bySchedule = await eventsAfter(beforeSchedule);
  // A container's collector has them all.
  expect(scheduled.stderr.split("\n").filter((line) => line.startsWith("{"))).toHaveLength(bySchedule.length);

  mount(SECRETS, 3, keys(install, [1, 2, 3], 3));
  await declared(3);
  const beforeJob = await log.countDocuments();
  const byJob = await run(job, { uri, name: "job" }).exited;
  expect(byJob.code, byJob.stderr).toBe(0);
  expect(await versionsOf(install)).toEqual({ "3": 300 });
  expect(await eventsAfter(beforeJob)).toEqual(bySchedule);
  // A Job that is made again is refused, and not tried again.
  expect((await run(job, { uri, name: "job" }).exited).code).toBe(3);

  // The mounted Secret is not the pod's to change: it says what is left to do.
  const other = ["certautopilot", "kek", "remove", "--version=1"];
  const removed = await run(deployment, { uri, name: "operator", other }).exited;
  expect(removed.code, removed.stderr).toBe(0);
  const line = `take it out yourself: CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1 in ${path(SECRETS)}/secrets.env`;
  expect(removed.stdout).toContain(line);
  await stop(...pods);
  expect(await install.db.collection("process_heartbeats").countDocuments()).toBe(0);
});

testAsRoot("with keys in a token, the hook makes the key once, and pods serve with it", async () => {
  const install = await testInstall();
  const { uri } = install;
  const { mount, run, path } = node("pkcs11");
  const token = testToken();
  execFileSync("cp", ["-r", token.directory, path("token")]);
  const conf = path("token/softhsm2.conf");
  execFileSync("sed", ["-i", `s|${token.directory}|${path("token")}|`, conf]);
  execFileSync("chown", ["-R", `${POD}:${POD}`, path("token")]);
  mount(SECRETS, 1, { "secrets.env": AUDIT_SECRET });
  mount("/etc/certautopilot/pin", 1, { pin: `${PIN}\n` });
  const pkcs11 = { modulePath: SOFTHSM, tokenLabel: token.label, pinSecret: { name: "pin" } };
  const manifests = await render({
    secrets: { existingSecret: "kek", encryption: { provider: "pkcs11", currentVersion: 1, pkcs11 } },
    mongodb: { existingSecret: "mongo", database: install.name },
    fleet: FAST,
    extraEnv: [{ name: "SOFTHSM2_CONF", value: conf }],
  });
  const hook = only(manifests, "Job");
  const first = await run(hook, { uri, name: "hook" }).exited;
  expect(first.code, first.stderr).toBe(0);
  expect(first.stdout).toContain("KEK version 1 is made and staged");
  expect((await run(hook, { uri, name: "hook" }).exited).stdout).toContain("KEK version 1 is there already");
  const pod = run(only(manifests, "Deployment"), { uri, name: "pod" });
  await pod.says("writing under KEK version 1");
  await stop(pod);
  for (const { stdout, stderr } of [first, pod]) expect(stdout + stderr).not.toContain(PIN);
});
