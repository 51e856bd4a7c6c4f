import type { StatusView, Verdict } from "../status/status_view.ts";
import type { TextLayout, Tone } from "./screen.ts";
import { auditLines, historyLines, installLines } from "./status_past.ts";
import { censusLines, processLines, versionLines } from "./status_present.ts";
import { rotationLines } from "./status_rotation.ts";
import { wrapped } from "./table.ts";

/** `kek status` in words: the whole of the view, what matters first. Pure. */

const TONE: Record<Verdict["level"], Tone> = { well: "good", working: "busy", due: "warn", trouble: "bad" };

export function statusLines(seen: StatusView, layout: TextLayout): string[] {
  const view = printable(seen);
  const parts = [
    verdictLines(view, layout),
    view.rotation === null ? [] : rotationLines(view.rotation, view, layout),
    versionLines(view, layout),
    censusLines(view, layout),
    processLines(view, layout),
    historyLines(view, layout),
    auditLines(view, layout),
    installLines(view, layout),
  ];
  return parts.filter((lines) => lines.length > 0).flatMap((lines, index) => (index === 0 ? lines : ["", ...lines]));
}

/** As one line, for a log. */
export function statusLine(view: StatusView): string {
  const [first] = view.verdict.reasons;
  const why = view.verdict.level === "trouble" && first !== undefined ? `: ${first.message}` : "";
  return printable(`${view.at} ${view.verdict.level}: ${view.verdict.headline}${why}`);
}

/** Names, hosts and reasons are whatever somebody wrote into MongoDB: nothing in them may move the cursor. */
export function printable<T>(value: T): T {
  if (typeof value === "string") return value.replaceAll(/\p{Cc}/gu, "·") as T;
  if (Array.isArray(value)) return value.map(printable) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [printable(key), printable(member)])) as T;
}

// ---------------------------------------------------------------------------------------------------------------------

function verdictLines({ verdict }: StatusView, { width, paint }: TextLayout): string[] {
  const tone = TONE[verdict.level];
  const headline = wrapped("", verdict.headline, width).map((line) => paint(tone, line));
  const reasons = verdict.reasons.flatMap(({ message, hint, urgent }) => [
    ...wrapped(urgent ? "problem: " : "warning: ", message, width).map((line) => paint(urgent ? "bad" : "warn", line)),
    ...wrapped("   hint: ", hint, width),
  ]);
  return [...headline, ...reasons];
}
