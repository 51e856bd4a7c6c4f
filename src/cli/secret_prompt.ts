import process from "node:process";
import { KekError } from "../errors/errors.ts";

/**
 * Reads a line from the terminal without echo. consola's prompts show what is typed.
 * @returns undefined when nothing was typed. @throws KekError `cancelled` on Ctrl-C.
 */
export async function readSecret(question: string): Promise<string | undefined> {
  const { stdin, stderr } = process;
  stderr.write(question);
  stdin.setRawMode(true);
  stdin.resume();
  try {
    const typed = await new Promise<string>((resolve, reject) => {
      let text = "";
      const listen = (chunk: Buffer | string) => {
        for (const key of String(chunk)) {
          if (key === "\r" || key === "\n" || key === END_OF_INPUT) {
            stdin.off("data", listen);
            return resolve(text);
          }
          if (key === INTERRUPT) {
            stdin.off("data", listen);
            return reject(new KekError("cancelled", "no PIN was given", "run it again when you have it"));
          }
          if (key === BACKSPACE || key === "\b") text = text.slice(0, -1);
          else if (key >= " ") text += key;
        }
      };
      stdin.on("data", listen);
    });
    return typed === "" ? undefined : typed;
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
    stderr.write("\n");
  }
}

const INTERRUPT = "\x03";
const END_OF_INPUT = "\x04";
const BACKSPACE = "\x7f";
