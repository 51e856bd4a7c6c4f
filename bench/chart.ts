import { isMet, type Line, median } from "./line.ts";
import { shown } from "./report.ts";

/** What is promised and what was measured, as one SVG: a bar a ratio, as a share of what is wanted. Pure. */

const ROW = 26;
const LEFT = 380;
const WIDTH = 960;
/** Where a bar ends that is just as long as wanted. */
const WANTED = 640;

export function chart(lines: Line[], caption: string): string {
  const rows = lines.filter((line) => line.wanted !== undefined);
  const height = ROW * rows.length + 70;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="13" role="img" aria-label="Figures of the benchmark against what is wanted">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="12" y="24" font-weight="bold">Measured, as a share of what is wanted (longer is better)</text>`,
    ...rows.flatMap((line, row) => bar(line, 40 + row * ROW)),
    `<line x1="${WANTED}" y1="36" x2="${WANTED}" y2="${height - 28}" stroke="#222" stroke-dasharray="3 3"/>`,
    `<text x="12" y="${height - 10}" fill="#555" font-size="11">${escaped(caption)}</text>`,
    "</svg>",
    "",
  ].join("\n");
}

// ---------------------------------------------------------------------------------------------------------------------

function bar(line: Line, y: number): string[] {
  const middle = median(line.values);
  const { wanted } = line;
  if (wanted === undefined) return [];
  const share = "atLeast" in wanted ? middle / wanted.atLeast : wanted.atMost / middle;
  const width = Math.max(2, Math.min(1.4, share) * (WANTED - LEFT));
  const fill = isMet(line) ? "#2a7f62" : "#b4521e";
  const limit = "atLeast" in wanted ? `≥ ${shown(wanted.atLeast)}` : `≤ ${shown(wanted.atMost)}`;
  return [
    `<text x="${LEFT - 10}" y="${y + 15}" text-anchor="end">${escaped(line.name)}</text>`,
    `<rect x="${LEFT}" y="${y + 3}" width="${width.toFixed(1)}" height="16" rx="2" fill="${fill}"/>`,
    `<text x="${LEFT + width + 8}" y="${y + 15}">${shown(middle)} ${escaped(line.unit)} (${limit})</text>`,
  ];
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
