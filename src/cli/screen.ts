import process from "node:process";
import { stripVTControlCharacters, styleText } from "node:util";
import { dumbTerminal, noColour } from "../config/environment.ts";
import { cut } from "./table.ts";

/** The terminal that results are shown on: its size, its colours, and a display that is redrawn in place. */

export type Tone = "good" | "busy" | "warn" | "bad" | "head" | "dim";
export type Paint = (tone: Tone, text: string) => string;

/** How text is laid out for a reader. */
export interface TextLayout {
  /** How long a line may be. */
  width: number;
  paint: Paint;
}

export interface Screen {
  readonly columns: number;
  readonly rows: number;
  readonly paint: Paint;
  /** Whether a display can be redrawn here. */
  readonly redraws: boolean;
}

export const unpainted: Paint = (_, text) => text;

/** @returns undefined where stdout is no terminal. */
export function screenOfStdout(): Screen | undefined {
  if (process.stdout.isTTY !== true) return undefined;
  return {
    get columns() {
      return process.stdout.columns || 80;
    },
    get rows() {
      return process.stdout.rows || 24;
    },
    paint: noColour() || dumbTerminal() ? unpainted : painted,
    redraws: !dumbTerminal(),
  };
}

/** A display over the whole terminal, which is as it was before once this is closed. */
export class Display {
  readonly #screen: Screen;

  constructor(screen: Screen) {
    this.#screen = screen;
    process.stdout.write(`${ESC}[?1049h${ESC}[?25l`);
  }

  /** One write a frame, and nothing is erased that is not written again: it does not flicker. */
  show(lines: string[]): void {
    const { columns, rows } = this.#screen;
    const more = lines.length - rows;
    const fit =
      more <= 0 ? lines : [...lines.slice(0, rows - 1), `… ${more + 1} more lines: a taller window shows them`];
    const frame = fit.map((line) => `${fitted(line, columns - 1)}${ESC}[K`).join("\r\n");
    process.stdout.write(`${ESC}[?2026h${ESC}[H${frame}${ESC}[J${ESC}[?2026l`);
  }

  close(): void {
    process.stdout.write(`${ESC}[?25h${ESC}[?1049l`);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const ESC = "\x1b";

const TONES = { good: "green", busy: "cyan", warn: "yellow", bad: "red", head: "bold", dim: "dim" } as const;

const painted: Paint = (tone, text) => styleText(TONES[tone], text, { validateStream: false });

/** A line that is too long would push the last one off the screen; erasing after one that is full would take its last character. */
function fitted(line: string, columns: number): string {
  const shown = stripVTControlCharacters(line);
  return shown.length <= columns ? line : cut(shown, columns);
}
