import { PHASE_NAMES } from "../protocol/phases.ts";
import type { RotationView, StatusView } from "../status/status_view.ts";
import { seconds } from "../util/duration.ts";
import type { TextLayout } from "./screen.ts";
import { many, moment } from "./status_lists.ts";
import { bar, cut, sparkline, tableLines, wrapped } from "./table.ts";

/** An open rotation in words: who leads it, whom it waits for, how far it is, what can be done. Pure. */

const FAILED_SHOWN = 10;
const FIELDS_SHOWN = 20;
const NAMES_SHOWN = 12;
const BAR = 20;
const PACE = 30;
const INDENT = "  ";
const NAMED = 14;

export function rotationLines(rotation: RotationView, view: StatusView, { width, paint }: TextLayout): string[] {
  const { from, to, phase, state, awaited, acknowledged, fenced, next_steps } = rotation;
  const what = `rotation ${rotation.rotation}: KEK ${from} → ${to}${purpose(rotation)}, ${state}, phase ${phase} of 3 (${PHASE_NAMES[phase]})`;
  const said = (name: string, text: string) => wrapped(`${INDENT}${name.padEnd(NAMED)}`, text, width);
  return [
    ...wrapped("", what, width).map((line) => paint("head", line)),
    ...said(
      "started",
      `${moment(rotation.started_at)} by ${rotation.started_by}, ${seconds(rotation.duration_ms)} ago`,
    ),
    ...said("phases", phases(rotation)),
    ...said("led by", leader(rotation)),
    ...(awaited.length === 0
      ? []
      : many(
          awaited.map((name) => withProblems(name, view)),
          NAMES_SHOWN,
        ).flatMap((name, index) => said(index === 0 ? "waits for" : "", name).map((line) => paint("warn", line)))),
    ...said("acknowledged", `${acknowledged.length} of ${acknowledged.length + awaited.length} processes`),
    ...fieldLines(rotation, width - INDENT.length).map((line) => INDENT + line),
    ...paceOf(rotation).flatMap(([name, text]) => said(name, text)),
    ...many(
      rotation.failed.map((record) => `${record.field} ${record.id}: ${record.reason}`),
      FAILED_SHOWN,
    ).map((line, index) => paint("bad", cut(`${INDENT}${(index === 0 ? "failed" : "").padEnd(NAMED)}${line}`, width))),
    ...(fenced.length === 0 ? [] : said("fence", `MongoDB rejects envelopes of KEK version ${fenced.join(", ")}`)),
    ...next_steps.flatMap(({ does, command }) => said(does, command)),
  ];
}

// ---------------------------------------------------------------------------------------------------------------------

function purpose({ repairs, reverses }: RotationView): string {
  if (repairs === true) return ", to repair stale envelopes";
  return reverses === null ? "" : `, the reverse rotation of rotation ${reverses}`;
}

function leader({ coordinator, led, lease_ran_out_ms: late }: RotationView): string {
  if (led) return coordinator ?? "";
  if (coordinator === null || late === null) return "nobody";
  return `nobody: ${coordinator} is gone, its lease ran out ${seconds(late)} ago`;
}

function phases({ phase_times: times }: RotationView): string {
  return ([1, 2, 3] as const)
    .flatMap((phase) => {
      const began = times[String(phase)];
      return began === undefined ? [] : [`${phase} ${PHASE_NAMES[phase]} since ${moment(began)}`];
    })
    .join(", ");
}

function withProblems(name: string, { processes }: StatusView): string {
  const found = processes.find((each) => `${each.name} (${each.role}, ${each.host}, pid ${each.pid})` === name);
  const why =
    found?.problems[0]?.message ?? (found === undefined ? "" : `last heartbeat ${seconds(found.last_beat_ms)} ago`);
  return why === "" ? name : why.startsWith(name) ? why : `${name}: ${why}`;
}

function fieldLines({ fields }: RotationView, width: number): string[] {
  if (fields.length === 0) return [];
  const rows = fields.slice(0, FIELDS_SHOWN).map(({ field, done, remaining, failed }) => {
    const share = done + remaining === 0 ? 1 : done / (done + remaining);
    return [field, String(done), String(remaining), String(failed), `${bar(share, BAR)} ${Math.floor(share * 100)}%`];
  });
  const more = fields.length - FIELDS_SHOWN;
  const lines = tableLines(["field", "done", "left", "failed", ""], rows, width);
  return more > 0 ? [...lines, `and ${more} more`] : lines;
}

function paceOf({ pace, rate, eta_ms: eta }: RotationView): [string, string][] {
  const line = sparkline(
    pace.map((point) => ({ at: Date.parse(point.at), value: point.rate })),
    PACE,
  );
  const highest = Math.round(Math.max(0, ...pace.map((point) => point.rate)));
  const left = eta === null ? "" : `, ${seconds(eta)} left`;
  return [
    ...(rate === null ? [] : ([["pace", `${Math.round(rate)} records/s${left}`]] as [string, string][])),
    ...(line === "" ? [] : ([["over time", `${line} up to ${highest}/s`]] as [string, string][])),
  ];
}
