import type { Output } from "./output.ts";

const PLAIN_MS = 5000;

/** Shows how far something has come: a line that is redrawn on a terminal, a plain line now and then elsewhere. */
export function progressLine(output: Output): (line: string) => void {
  let lastLine = 0;
  return (line) => {
    if (output.live) {
      output.draw(line);
    } else if (performance.now() - lastLine > PLAIN_MS) {
      lastLine = performance.now();
      output.log.info(line);
    }
  };
}
