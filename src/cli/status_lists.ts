import type { TextLayout } from "./screen.ts";
import { tableLines } from "./table.ts";

/** What the parts of `kek status` have in common: a title, a table, and lists that are cut with a count. Pure. */

/** The first of many, and how many there are beside them. */
export function many(lines: string[], shown: number): string[] {
  const more = lines.length - shown;
  return more > 0 ? [...lines.slice(0, shown), `and ${more} more`] : lines;
}

export interface Row {
  cells: string[];
  tone?: "bad" | "warn" | "dim" | undefined;
}

/** @param shown how many rows; the rest is counted. */
export function section(head: string[], rows: Row[], shown: number, { width, paint }: TextLayout): string[] {
  const some = rows.slice(0, shown);
  const [titles, ...lines] = tableLines(
    head,
    some.map(({ cells }) => cells),
    width,
  );
  const painted = lines.map((line, index) => {
    const tone = some[index]?.tone;
    return tone === undefined ? line : paint(tone, line);
  });
  const more = rows.length - shown;
  return [paint("head", titles ?? ""), ...painted, ...(more > 0 ? [`and ${more} more`] : [])];
}

/** To the second. */
export function moment(time: string): string {
  return `${time.slice(0, 19)}Z`;
}

/** The same as short as a column wants it. */
export function minute(time: string): string {
  return `${time.slice(0, 16)}Z`;
}

export function day(time: string): string {
  return time.slice(0, 10);
}
