import process from "node:process";
import { VERSION } from "./config/version.ts";

/** The entry, and the only exit. Everything but the version is loaded when it is needed. */
const argv = process.argv.slice(2);
if (argv.length === 1 && argv[0] === "--version") {
  process.stdout.write(`${VERSION}\n`);
} else {
  const { runProgram } = await import("./cli/program.ts");
  process.exit(await runProgram(argv));
}
