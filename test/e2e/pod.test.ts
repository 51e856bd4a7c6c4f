import { expect, test } from "bun:test";
import { chmodSync, chownSync, copyFileSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { HELM, type Manifest, only, render } from "../harness/chart.ts";
import { library } from "../harness/library.ts";
import {
  BINARY,
  FAST,
  type Running,
  startCommand,
  stop,
  type TestInstall,
  testInstall,
  until,
} from "../harness/program.ts";
import { seed, versionsOf } from "../harness/records.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/**
 * What the chart renders, run: its commands with its variables, as its user, beside a Secret as the kubelet mounts one. Only the kubelet is
 * missing. Needs root, for the user of the pod is another.
 */

const scratch = scratchDirectory();
const mounted = join(scratch, "secrets");
const bin = join(scratch, "bin");
const POD = "65532";

/** A Secret's volume: a directory a version, and `..data`, which leads to it and is renamed over: atomic_writer.go of Kubernetes. */
function mountSecret(version: number, content: string): void {
  const directory = join(mounted, `..v${version}`);
  mkdirSync(directory, { recursive: true });
  const file = join(directory, "secrets.env");
  writeFileSync(file, content);
  chownSync(file, 0, Number(POD));
  chmodSync(file, 0o440);
  symlinkSync(`..v${version}`, join(mounted, "..data_tmp"));
  renameSync(join(mounted, "..data_tmp"), join(mounted, "..data"));
  if (version === 1) symlinkSync("..data/secrets.env", join(mounted, "secrets.env"));
}

function secretOf(install: TestInstall, versions: number[], current: number): string {
  return [
    ...versions.map((version) => `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}=${install.keks[version]}`),
    `CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${current}`,
    "CERTAUTOPILOT_AUDIT_SECRET=audit-secret-of-the-tests",
    "",
  ].join("\n");
}

test.skipIf(HELM === undefined || process.getuid?.() !== 0)(
  "pods of the chart serve, load new keys without a restart, and rotate by schedule and by Job alike",
  async () => {
    chmodSync(scratch, 0o755);
    mkdirSync(bin);
    copyFileSync(BINARY, join(bin, "certautopilot"));
    copyFileSync(
      join(import.meta.dir, "../../deploy/schedule/certautopilot-rotate"),
      join(bin, "certautopilot-rotate"),
    );
    const install = await testInstall();
    mountSecret(1, secretOf(install, [1], 1));
    const manifests = await render({
      secrets: { existingSecret: "kek" },
      mongodb: { existingSecret: "mongo", database: install.name },
      fleet: FAST,
      fields: ["secrets:value"],
      rotate: { job: { enabled: true, toVersion: 3 }, cronJob: { enabled: true } },
    });

    /** The first container of a manifest's pod; with another command, as `kubectl exec` runs one. */
    const run = (kind: string, name: string, other?: string[]): Running => {
      const manifest = only(manifests, kind);
      const [{ command, env }] = (manifest.spec.jobTemplate?.spec ?? manifest.spec).template.spec.containers;
      const variables = Object.fromEntries(
        env.map((one: Manifest) => [
          one.name,
          // The only reference is to the Secret with the URI.
          (one.value ?? install.uri).replace("/etc/certautopilot/secrets", mounted),
        ]),
      );
      const user = [
        "setpriv",
        `--reuid=${POD}`,
        `--regid=${POD}`,
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
      ];
      return startCommand([...(user as [string]), ...(other ?? command)], {
        ...variables,
        PATH: `${bin}:/usr/bin:/bin`,
        CERTAUTOPILOT_INSTANCE_NAME: name,
        CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
      });
    };
    const eventsAfter = async (seq: number) =>
      (
        await install.db
          .collection("audit_log")
          .find({ seq: { $gt: seq } })
          .sort({ seq: 1 })
          .toArray()
      ).map(({ event, data }) => `${event} ${data["phase"] ?? ""}`);
    const lastSeq = async () => await install.db.collection("audit_log").countDocuments();
    const declared = async (version: number) =>
      await until(`every pod declares ${version}`, async () => {
        const beats = await install.db.collection("process_heartbeats").find().toArray();
        return (
          beats.length === 2 &&
          beats.every((beat) => beat["current_version"] === version && beat["loaded"].includes(version))
        );
      });

    const pods = [run("Deployment", "pod-a"), run("Deployment", "pod-b")];
    for (const pod of pods) await pod.says(" is ready on ");
    const address = /ready on (\S+),/.exec(pods[0]?.stderr ?? "")?.[1] ?? "";
    const [container] = only(manifests, "Deployment").spec.template.spec.containers;
    for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"])
      expect((await fetch(address + container[probe].httpGet.path)).status).toBe(200);
    const writer = await library(install, [1], 1, "writer");
    await seed(writer, install, 300);
    await writer.close();

    const idle = await run("CronJob", "cron").exited;
    expect([idle.code, idle.stdout]).toEqual([
      0,
      "nothing to do: KEK version 1 is active, and declared by the whole fleet\n",
    ]);

    mountSecret(2, secretOf(install, [1, 2], 2));
    await declared(2);
    const beforeSchedule = await lastSeq();
    const scheduled = await run("CronJob", "cron").exited;
    expect(scheduled.code, scheduled.stderr).toBe(0);
    expect(await versionsOf(install)).toEqual({ "2": 300 });
    const bySchedule = await eventsAfter(beforeSchedule);
    // A container's collector has them all.
    expect(scheduled.stderr.split("\n").filter((line) => line.startsWith("{"))).toHaveLength(bySchedule.length);

    mountSecret(3, secretOf(install, [1, 2, 3], 3));
    await declared(3);
    const beforeJob = await lastSeq();
    const job = await run("Job", "job").exited;
    expect(job.code, job.stderr).toBe(0);
    expect(await versionsOf(install)).toEqual({ "3": 300 });
    expect(await eventsAfter(beforeJob)).toEqual(bySchedule);
    // Once more, as a Job that was made anew: refused, and not tried again.
    expect((await run("Job", "job").exited).code).toBe(3);

    // The mounted Secret is not the pod's to change: it says what is left to do.
    const removed = await run("Deployment", "operator", ["certautopilot", "kek", "remove", "--version=1"]).exited;
    expect(removed.code, removed.stderr).toBe(0);
    expect(removed.stdout).toContain(
      `take it out yourself: CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1 in ${mounted}/secrets.env`,
    );

    await stop(...pods);
    expect(await install.db.collection("process_heartbeats").countDocuments()).toBe(0);
  },
);
