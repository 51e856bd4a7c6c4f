import { statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { EXIT, KekError } from "../errors/errors.ts";
import type { RotationDoc } from "../protocol/documents.ts";
import { memberName } from "../protocol/member.ts";
import { discover } from "../rotation/discovery.ts";
import { type Verification, verifyBackup, verifyInstall, verifyTarget } from "../rotation/verify.ts";
import { verifyRecords } from "../rotation/verify_records.ts";
import { seconds } from "../util/duration.ts";
import { version } from "./arguments.ts";
import { BACKUP_FLAGS, backupCheck } from "./backup_flags.ts";
import { leaf } from "./command.ts";
import { progressLine } from "./progress_line.ts";
import { complaintOf, describeRecords, openingLine } from "./records_report.ts";
import { describeDiscovery, scanReporter } from "./scan_progress.ts";
import { withInstall } from "./session.ts";
import { table } from "./table.ts";

/** `kek verify`: exit 0 only when ready, or healthy. */
export default leaf({
  summary: "Is every process ready for a version? Without --target: is the whole install healthy?",
  args: {
    target: { type: "string", description: "The version that every process must hold and declare", valueHint: "N" },
    "from-version": {
      type: "string",
      description: "With --target: the version to leave, as for `kek rotate`",
      valueHint: "N",
    },
    ...BACKUP_FLAGS,
    records: { type: "boolean", description: "Open every envelope of every field" },
    discover: { type: "boolean", description: "Read the whole database and name envelopes that nobody registered" },
    restart: { type: "boolean", description: "With --records or --discover: do not resume an interrupted run" },
    backup: { type: "string", description: "Prove that a copy of the secrets opens the canaries", valueHint: "FILE" },
  },
  async run({ args, argv, output }) {
    const target = version("target", args.target);
    const from = version("from-version", args["from-version"]);
    const questions = [target !== undefined, args.records === true, args.discover === true, args.backup !== undefined];
    if (questions.filter(Boolean).length > 1) {
      throw new KekError(
        "usage",
        "--target, --records, --discover and --backup each ask another question",
        "give one of them at a time",
      );
    }
    if (args.restart === true && args.records !== true && args.discover !== true)
      throw new KekError(
        "usage",
        "--restart goes with --records and --discover only",
        "leave it out, or add one of them",
      );
    const backup = backupCheck(argv);
    if (target === undefined && (from !== undefined || backup !== "default"))
      throw new KekError(
        "usage",
        "--from-version, --require-backup and --no-backup-check go with --target only",
        "add --target=N",
      );
    return await withInstall(args.config, { output }, async (context) => {
      if (args.backup !== undefined) {
        if (isSameFile(args.backup, context.config.secretsFile))
          throw new KekError(
            "usage",
            `${args.backup} is the secrets file that this program runs with, and no copy of it`,
            "fetch the copy back from your secret store, into a file of its own, and give that",
          );
        const { versions: verified, unknown } = await verifyBackup(context, args.backup);
        if (unknown.length > 0)
          output.log.warn(
            `not verified: KEK ${unknown.length === 1 ? "version" : "versions"} ${unknown.join(", ")} of ${args.backup}: no process has made it known yet. Run it again when one has, within seconds after it got the key`,
          );
        output.result(
          `${args.backup} opens the canaries of KEK ${verified.length === 1 ? "version" : "versions"} ${verified.join(", ")}`,
          {
            ready: true,
            backup: args.backup,
            versions: verified,
            unknown,
          },
        );
        return EXIT.done;
      }
      if (args.records === true) {
        const concurrency = Math.min(4, availableParallelism());
        const show = progressLine(output);
        const report = await verifyRecords(
          context,
          { concurrency, restart: args.restart === true },
          { note: (message) => output.log.info(message), progress: (progress) => show(openingLine(progress)) },
        );
        const complaint = complaintOf(report);
        output.result(describeRecords(report), { ready: complaint === undefined, ...report });
        return complaint === undefined ? EXIT.done : output.complain(complaint);
      }
      if (args.discover === true) {
        const discovery = await discover(context, args.restart === true, scanReporter(output));
        output.result(describeDiscovery(discovery), { ready: discovery.problems.length === 0, ...discovery });
        return discovery.problems.length === 0 ? EXIT.done : EXIT.refused;
      }
      const verification =
        target === undefined ? await verifyInstall(context) : await verifyTarget(context, { target, from, backup });
      output.result(describe(verification), asData(verification));
      return verification.ready ? EXIT.done : EXIT.refused;
    });
  },
});

// ---------------------------------------------------------------------------------------------------------------------

function isSameFile(one: string, other: string | undefined): boolean {
  const [a, b] = [one, other].map((path) =>
    path === undefined ? undefined : statSync(path, { throwIfNoEntry: false }),
  );
  return a !== undefined && b !== undefined && a.dev === b.dev && a.ino === b.ino;
}

function describe(verification: Verification): string {
  const { ready, target, active, processes, versionCounts, problems, warnings, rotation, capabilities } = verification;
  const rows = processes.map((member) => [
    member.instance_name,
    member.role,
    `${member.host}:${member.pid}`,
    member.provider,
    member.loaded.join(",") || "-",
    String(member.current_version ?? "-"),
    String(member.write_version ?? "-"),
    `${seconds(member.age_ms)} ago`,
    problems.some((problem) => problem.process === member._id) ? "problem" : "ok",
  ]);
  const fleet =
    processes.length === 0
      ? "no process is in the fleet"
      : table(["process", "role", "host:pid", "provider", "loaded", "declares", "writes", "last heartbeat", ""], rows);
  const counted =
    versionCounts.length === 0
      ? []
      : [
          "",
          table(
            ["field", "version", "records"],
            versionCounts.map((row) => [row.field, row.version, String(row.count)]),
          ),
        ];
  const found = [
    ...warnings.map((warning) => `warning: ${warning.message}\n   hint: ${warning.hint}`),
    ...problems.map((problem) => `problem: ${problem.message}\n   hint: ${problem.hint}`),
  ];
  const subject = target === undefined ? "the install" : `the fleet for KEK version ${target}`;
  const health = ready
    ? target === undefined
      ? `healthy: KEK version ${active} is active`
      : processes.length === 0
        ? `nothing stands against KEK version ${target} (active: ${active}), but no process is in the fleet: is this the right database?`
        : `ready: every process holds and declares KEK version ${target} (active: ${active})`
    : `${target === undefined ? "not healthy" : "not ready"}: ${problems.length} problem${problems.length === 1 ? "" : "s"} with ${subject}`;
  const abilities =
    capabilities.length === 0
      ? []
      : [
          "",
          table(
            ["this host's HSM", "found", ""],
            capabilities.map((row) => [row.what, row.found, row.ok ? "ok" : "lacking"]),
          ),
        ];
  const note =
    rotation === undefined ? [] : [`note: rotation ${rotation.from} → ${rotation.to} is in phase ${rotation.phase}`];
  return [fleet, ...counted, ...abilities, "", ...found, ...note, health].join("\n");
}

function openRotation({ _id, from, to, phase, state }: RotationDoc) {
  return { rotation: _id, from, to, phase, state };
}

function asData(verification: Verification) {
  const { ready, target, active, processes, versionCounts, problems, warnings, rotation, capabilities } = verification;
  return {
    ready,
    target: target ?? null,
    active: active ?? null,
    processes: processes.map((member) => ({
      id: member._id,
      name: memberName(member),
      instance_name: member.instance_name,
      role: member.role,
      host: member.host,
      pid: member.pid,
      provider: member.provider,
      loaded: member.loaded,
      current_version: member.current_version,
      write_version: member.write_version,
      last_beat_ms: Math.round(member.age_ms),
    })),
    version_counts: versionCounts,
    problems,
    warnings,
    rotation: rotation === undefined ? null : openRotation(rotation),
    capabilities,
  };
}
