import type { Health, StatusView } from "../status/status_view.ts";
import type { TextLayout, Tone } from "./screen.ts";
import { processLines, versionCountLines, versionLines } from "./status_current.ts";
import { auditLines, historyLines, installLines } from "./status_history.ts";
import { rotationLines } from "./status_rotation.ts";
import { wrapped } from "./table.ts";

/** `kek status` in words: the whole of the view, what matters first. Pure. */

const TONE: Record<Health["level"], Tone> = { ok: "good", in_progress: "busy", action_due: "warn", problem: "bad" };

export function statusLines(seen: StatusView, layout: TextLayout): string[] {
  const view = printable(seen);
  const parts = [
    healthLines(view, layout),
    view.rotation === null ? [] : rotationLines(view.rotation, view, layout),
    versionLines(view, layout),
    versionCountLines(view, layout),
    processLines(view, layout),
    historyLines(view, layout),
    auditLines(view, layout),
    installLines(view, layout),
  ];
  return parts.filter((lines) => lines.length > 0).flatMap((lines, index) => (index === 0 ? lines : ["", ...lines]));
}

/** As one line, for a log. */
export function statusLine(view: StatusView): string {
  const [first] = view.health.findings;
  const why = view.health.level === "problem" && first !== undefined ? `: ${first.message}` : "";
  return printable(`${view.at} ${view.health.level}: ${view.health.headline}${why}`);
}

/** Names, hosts and reasons are whatever somebody wrote into MongoDB: nothing in them may move the cursor. */
export function printable<T>(value: T): T {
  if (typeof value === "string") return value.replaceAll(/\p{Cc}/gu, "·") as T;
  if (Array.isArray(value)) return value.map(printable) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [printable(key), printable(member)])) as T;
}

// ---------------------------------------------------------------------------------------------------------------------

function healthLines({ health }: StatusView, { width, paint }: TextLayout): string[] {
  const tone = TONE[health.level];
  const headline = wrapped("", health.headline, width).map((line) => paint(tone, line));
  const findings = health.findings.flatMap(({ message, hint, urgent }) => [
    ...wrapped(urgent ? "problem: " : "warning: ", message, width).map((line) => paint(urgent ? "bad" : "warn", line)),
    ...wrapped("   hint: ", hint, width),
  ]);
  return [...headline, ...findings];
}
