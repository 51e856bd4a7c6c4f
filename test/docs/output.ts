/** What a page says that a command prints, held against what it printed. Pure. */

/**
 * A line of `…` alone stands for any lines, `…` in a line for anything. Times, durations, ids, rates and bars differ from run
 * to run and count as alike, and so do runs of blanks.
 * @returns the first line of the page that is not there, or undefined.
 */
export function missingFrom(printed: string, shown: string): string | undefined {
  const lines = printed.split("\n").map(plain).filter(Boolean);
  let at = 0;
  let anywhere = false;
  for (const raw of shown.split("\n").filter((line) => line.trim() !== "")) {
    if (raw.trim() === "…") {
      anywhere = true;
      continue;
    }
    const wanted = patternOf(plain(raw));
    const found = lines.findIndex((line, index) => index >= at && wanted.test(line));
    if (found === -1 || (found > at && !anywhere)) return raw;
    at = found + 1;
    anywhere = false;
  }
  return anywhere || at >= lines.length ? undefined : `(nothing more; it printed: ${lines[at]})`;
}

// ---------------------------------------------------------------------------------------------------------------------

const VOLATILE: [RegExp, string][] = [
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours of a terminal
  [/\x1b\[[0-9;?]*[A-Za-z]/g, ""],
  [/\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)/g, "<time>"],
  [/\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d)?)?/g, "<time>"],
  [/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "<uuid>"],
  [/\b[0-9a-f]{16,}\b/g, "<hex>"],
  [/\b\d+(\.\d+)? ?(ms|s|min|h|days)\b/g, "<duration>"],
  [/\b\d+(\.\d+)?( records)?\/s\b/g, "<rate>"],
  [/\bpid \d+/g, "pid <n>"],
  [/\b\d+ \(\d+%\)/g, "<wraps>"],
  [/(?<=[a-z0-9-]):\d{2,7}(?= )/g, ":<n>"],
  [/[▁-█░]+/g, "<bar>"],
  [/\s+/g, " "],
];

function plain(line: string): string {
  return VOLATILE.reduce((text, [pattern, by]) => text.replaceAll(pattern, by), line).trim();
}

function patternOf(line: string): RegExp {
  const escaped = line.split("…").map((piece) => piece.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${escaped.join(".*")}$`);
}
