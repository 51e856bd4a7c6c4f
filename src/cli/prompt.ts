import process from "node:process";
import { StringDecoder } from "node:string_decoder";
import { KekError } from "../errors/errors.ts";

/**
 * Questions on the terminal: they are written to stderr, and answers are read from stdin, which may be open for reading only.
 */

/**
 * Asks a question that is answered by yes or no; everything but `y` and `yes` means no. The terminal stays in line mode:
 * the system echoes and edits what is typed, and a process that is killed leaves the terminal usable.
 * @throws KekError `cancelled` on Ctrl-C.
 */
export async function askYesNo(question: string): Promise<boolean> {
  const { stdin, stderr } = process;
  comeToForeground();
  stderr.write(`${question} [y/N] `);
  let detach = () => {};
  try {
    const line = await new Promise<string>((resolve, reject) => {
      let text = "";
      const interrupt = () =>
        reject(new KekError("cancelled", "nothing was changed", "run it again when you are sure"));
      const listen = (chunk: Buffer | string) => {
        text += chunk.toString();
        // Another program may have left the terminal in raw mode, where these keys arrive as they are.
        if (text.includes(INTERRUPT)) return interrupt();
        const end = text.search(/[\r\n]/);
        if (end >= 0) resolve(text.slice(0, end));
      };
      // Ctrl-D, or a terminal that was closed.
      const close = () => resolve("");
      stdin.on("data", listen).once("end", close).once("error", close);
      process.on("SIGINT", interrupt);
      detach = () => {
        stdin.off("data", listen).off("end", close).off("error", close);
        process.off("SIGINT", interrupt);
      };
      stdin.resume();
    });
    return /^\s*(y|yes)\s*$/i.test(line);
  } catch (thrown) {
    stderr.write("\n");
    throw thrown;
  } finally {
    detach();
    stdin.pause();
  }
}

/**
 * Reads a line from the terminal without echo.
 * A line with a control key in it that means nothing here is asked for again: nobody can see what became of it, and a
 * token counts the tries.
 * @returns undefined when nothing was typed. @throws KekError `cancelled` on Ctrl-C.
 */
export async function readSecret(question: string): Promise<string | undefined> {
  const { stdin, stderr } = process;
  stdin.setRawMode(true);
  stdin.resume();
  try {
    for (;;) {
      stderr.write(question);
      const typed = await readLine();
      stderr.write("\n");
      if (!CONTROL.test(typed)) return typed === "" ? undefined : typed;
      stderr.write("a control key was typed, and nothing was tried: type it again (Ctrl-U clears the line)\n");
    }
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * sudo with `use_pty`, Debian's default, starts a command whose input is a pipe in the background of a terminal of its own. It
 * brings it to the front once it sets or reads that terminal (SIGTTOU, SIGTTIN); a program that waits with epoll does neither.
 */
function comeToForeground(): void {
  process.stdin.setRawMode(true);
  process.stdin.setRawMode(false);
}

const INTERRUPT = "\x03";
const END_OF_INPUT = "\x04";
const BACKSPACE = "\x7f";
const ERASE_WORD = "\x17";
const ERASE_LINE = "\x15";
const ESCAPE = "\x1b";
/** Arrow and function keys, which come in one piece. One that does not stays in the line, and spoils it. */
const KEY_SEQUENCE = new RegExp(`${ESCAPE}(?:\\[[0-?]*[ -/]*[@-~]|O[@-~])`, "g");
const CONTROL = /\p{Cc}/u;

/** One line as it is after its corrections. Control keys that correct nothing are left in it. */
async function readLine(): Promise<string> {
  const { stdin } = process;
  const decoder = new StringDecoder("utf8");
  return await new Promise<string>((resolve, reject) => {
    let text = "";
    const listen = (chunk: Buffer | string) => {
      const keys = typeof chunk === "string" ? chunk : decoder.write(chunk);
      for (const key of keys.replaceAll(KEY_SEQUENCE, "")) {
        if (key === "\r" || key === "\n" || key === END_OF_INPUT) {
          stdin.off("data", listen);
          return resolve(text);
        }
        if (key === INTERRUPT) {
          stdin.off("data", listen);
          process.stderr.write("\n");
          return reject(new KekError("cancelled", "nothing was given", "run it again when you have it"));
        }
        text = corrected(text, key);
      }
    };
    stdin.on("data", listen);
  });
}

function corrected(text: string, key: string): string {
  if (key === BACKSPACE || key === "\b") return [...text].slice(0, -1).join("");
  if (key === ERASE_LINE) return "";
  if (key === ERASE_WORD) return text.replace(/\S*\s*$/, "");
  return text + key;
}
