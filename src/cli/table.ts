/** Rows as aligned columns, and other ways to fit facts onto lines. */

/** A column is not cut further than to so many characters. */
const NARROWEST = 6;
const GAP = 2;

/** @param width the widest line there is room for: the widest columns are cut until everything fits. */
export function table(head: string[], rows: string[][], width = Number.POSITIVE_INFINITY): string {
  return tableLines(head, rows, width).join("\n");
}

/** The same, the head first, one line a row. */
export function tableLines(head: string[], rows: string[][], width = Number.POSITIVE_INFINITY): string[] {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  for (;;) {
    const over = widths.reduce((sum, each) => sum + each, (widths.length - 1) * GAP) - width;
    const widest = Math.max(...widths);
    if (over <= 0 || widest <= NARROWEST) break;
    widths[widths.indexOf(widest)] = widest - 1;
  }
  const line = (cells: string[]) =>
    cells
      .map((cell, column) => cut(cell, widths[column] ?? 0).padEnd(widths[column] ?? 0))
      .join(" ".repeat(GAP))
      .trimEnd();
  return [line(head), ...rows.map(line)];
}

/** What is longer ends with an ellipsis. */
export function cut(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`;
}

/** Words on lines of at most `width`: the first begins with `first`, the others with as much white space. */
export function wrapped(first: string, text: string, width: number): string[] {
  const room = Math.max(NARROWEST, width - first.length);
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ").flatMap((each) => pieces(each, room))) {
    if (line !== "" && line.length + 1 + word.length > room) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line].map((each, index) => (index === 0 ? first : " ".repeat(first.length)) + each);
}

/** @param share from 0 to 1. */
export function bar(share: number, width: number): string {
  const full = Math.floor(Math.min(1, Math.max(0, share)) * width);
  return "█".repeat(full) + "░".repeat(width - full);
}

/** Numbers over time as blocks of eight heights. @param points in the order of time, in milliseconds. */
export function sparkline(points: { at: number; value: number }[], width: number): string {
  const [first, last] = [points[0], points.at(-1)];
  if (first === undefined || last === undefined || points.length < 2) return "";
  const highest = Math.max(...points.map(({ value }) => value));
  const step = (last.at - first.at) / width;
  return Array.from({ length: width }, (_, index) => {
    const middle = first.at + (index + 0.5) * step;
    const { value } = points.find(({ at }) => at >= middle) ?? last;
    return HEIGHTS[highest === 0 ? 0 : Math.round((value / highest) * (HEIGHTS.length - 1))];
  }).join("");
}

// ---------------------------------------------------------------------------------------------------------------------

/** A word that is longer than a line goes over several. */
function pieces(word: string, room: number): string[] {
  if (word.length <= room) return [word];
  return [word.slice(0, room), ...pieces(word.slice(room), room)];
}

const HEIGHTS = "▁▂▃▄▅▆▇█";
