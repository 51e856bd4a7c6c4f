import { EXIT } from "../errors/errors.ts";
import { seconds } from "../fleet/readiness.ts";
import { StatusReader } from "../status/read_status.ts";
import type { RotationView, StatusView } from "../status/status_view.ts";
import { waysOn } from "../status/ways_on.ts";
import { leaf } from "./command.ts";
import { table } from "./output.ts";
import { withInstall } from "./session.ts";

/** `kek status`: what there is, on one screen. */
export default leaf({
  summary: "Versions, census, open rotation, history, processes, drift",
  args: { watch: { type: "boolean", description: "Show it again every second until Ctrl-C" } },
  async run({ args, output }) {
    return await withInstall(args.config, { output, keys: false }, async ({ store, install, config }) => {
      const reader = new StatusReader(store, install, config);
      for (;;) {
        const view = await reader.read();
        const clear = args.watch === true && output.live ? "\x1b[2J\x1b[H" : "";
        output.result(clear + describe(view), view);
        if (args.watch !== true) return EXIT.done;
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    });
  },
});

// ---------------------------------------------------------------------------------------------------------------------

function describe(view: StatusView): string {
  const { install, versions, census, rotation, history, processes, drift } = view;
  const parts = [
    `install ${install.install_id}: provider "${install.provider}", locked ${install.locked_at} by ${install.locked_by}`,
    `phase ${view.phase}${view.phase === 0 ? " (steady)" : ""}, writing under KEK version ${view.write_version ?? "-"}`,
    "",
    table(
      ["version", "state", "records", "wraps (of 2^32)", "since"],
      versions.map((entry) => [
        String(entry.version),
        entry.state,
        String(entry.records),
        `${entry.wraps} (${entry.wraps_percent}%)`,
        entry.since,
      ]),
    ),
  ];
  if (census.length > 0) {
    parts.push(
      "",
      table(
        ["field", "version", "records"],
        census.map((row) => [row.field, row.version, String(row.count)]),
      ),
    );
  }
  if (rotation !== null) parts.push("", ...describeRotation(rotation));
  parts.push("", processes.length === 0 ? "no process is in the fleet" : fleetTable(view));
  for (const problem of drift) parts.push(`drift: ${problem.message}`, ` hint: ${problem.hint}`);
  for (const warning of view.wraps) parts.push(`warning: ${warning.message}`, `   hint: ${warning.hint}`);
  if (history.length > 0) {
    parts.push(
      "",
      table(
        ["rotation", "from", "to", "ended", "phase", "started", "by"],
        history.map((entry) => [
          String(entry.rotation),
          String(entry.from),
          String(entry.to),
          entry.state,
          String(entry.phase),
          entry.started_at,
          entry.started_by,
        ]),
      ),
    );
  }
  return parts.join("\n");
}

function describeRotation(rotation: RotationView): string[] {
  const { from, to, phase, state, coordinator, lease_ran_out_ms: late } = rotation;
  const led =
    coordinator === null
      ? "nobody coordinates it"
      : late === null
        ? `coordinated by ${coordinator}`
        : `its coordinator ${coordinator} is gone: the lease ran out ${seconds(late)} ago`;
  const lines = [`rotation ${rotation.rotation}: ${from} → ${to}, phase ${phase}, ${state}, ${led}`];
  if (rotation.awaited.length > 0) lines.push(`  waiting for: ${rotation.awaited.join(", ")}`);
  for (const field of rotation.fields) {
    lines.push(`  ${field.field}: ${field.done} done, ${field.remaining} left, ${field.failed} failed`);
  }
  for (const record of rotation.failed.slice(0, 20)) {
    lines.push(`  failed: ${record.field} ${record.id}: ${record.reason}`);
  }
  if (coordinator === null || late !== null || state === "cancelled") lines.push(`  ${waysOn(rotation)}`);
  return lines;
}

function fleetTable({ processes }: StatusView): string {
  return table(
    ["process", "role", "host:pid", "loaded", "declares", "writes", "last beat", ""],
    processes.map((entry) => [
      entry.name,
      entry.role,
      `${entry.host}:${entry.pid}`,
      entry.loaded.join(",") || "-",
      String(entry.current_version ?? "-"),
      String(entry.write_version ?? "-"),
      `${seconds(entry.last_beat_ms)} ago`,
      entry.silent ? "silent" : "",
    ]),
  );
}
