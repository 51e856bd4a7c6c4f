import type { StatusView } from "../status/status_view.ts";
import { seconds } from "../util/duration.ts";
import type { TextLayout } from "./screen.ts";
import { minute, moment, section } from "./status_lists.ts";
import { wrapped } from "./table.ts";

/** What has been: rotations that ended, audit events, the install's lock, in words. Pure. */

const ROTATIONS_SHOWN = 8;

export function historyLines({ history }: StatusView, layout: TextLayout): string[] {
  if (history.length === 0) return [];
  const rows = history.map((entry) => ({
    cells: [
      String(entry.rotation),
      `${entry.from} → ${entry.to}${entry.repairs === true ? " (stale envelopes)" : ""}`,
      entry.state === "cancelled" ? `cancelled in ${entry.phase}` : entry.state,
      minute(entry.started_at),
      seconds(entry.duration_ms),
      String(entry.done),
      entry.started_by,
    ],
  }));
  const head = ["rotation", "KEK", "ended", "started", "took", "records", "by"];
  return section(head, rows, ROTATIONS_SHOWN, layout);
}

export function auditLines({ audit }: StatusView, layout: TextLayout): string[] {
  const { state, checked, fault } = audit.chain;
  const chain = {
    whole: `audit chain: whole over the last ${checked} events`,
    unchecked: "audit chain: not checked, CERTAUTOPILOT_AUDIT_SECRET is not set here",
    broken: `audit chain: broken: ${fault}`,
  }[state];
  const lines = wrapped("", chain, layout.width);
  if (audit.events.length === 0) return ["audit log: no event yet"];
  const rows = audit.events.map(({ seq, at, event, actor, data }) => ({
    cells: [String(seq), minute(at), event, actor, JSON.stringify(data)],
  }));
  return [
    ...(state === "broken" ? lines.map((line) => layout.paint("bad", line)) : lines),
    ...section(["seq", "at", "event", "actor", ""], rows, rows.length, layout),
  ];
}

export function installLines({ install, phase, write_version, at }: StatusView, { width }: TextLayout): string[] {
  const { install_id, provider, locked_at, locked_by } = install;
  const steady = phase === 0 ? " (steady)" : "";
  return [
    ...wrapped("", `install ${install_id}: provider "${provider}", locked ${moment(locked_at)} by ${locked_by}`, width),
    ...wrapped(
      "",
      `phase ${phase}${steady}, writing under KEK version ${write_version ?? "-"}; as of ${moment(at)}`,
      width,
    ),
  ];
}
