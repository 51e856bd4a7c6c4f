import { EXIT, KekError } from "../errors/errors.ts";
import type { VersionDoc } from "../protocol/documents.ts";
import {
  backupsNote,
  checkRemoval,
  type Removal,
  type RemoveOptions,
  remove,
  searchDatabase,
} from "../rotation/remove.ts";
import { required, version } from "./arguments.ts";
import { leaf } from "./command.ts";
import { readText, scanReporter } from "./scan_progress.ts";
import { withInstall } from "./session.ts";

/** `kek remove`: says what it will do, asks on a terminal, does it. */
export default leaf({
  summary: "Destroy a retired KEK version, or forget a staged one",
  args: {
    version: { type: "string", description: "The version to remove", valueHint: "N" },
    scan: {
      type: "string",
      description: "all: read every collection first; registered: count the known fields only (default all)",
      valueHint: "MODE",
    },
    restart: { type: "boolean", description: "Do not resume an interrupted read of the collections" },
    "dry-run": { type: "boolean", description: "Check everything, say what would be done, change nothing" },
    "keep-copy": { type: "boolean", description: "Keep the destroyed key in a file beside the secrets file" },
    yes: { type: "boolean", description: "Do not ask" },
  },
  async run({ args, output }) {
    const number = required(version("version", args.version), "version");
    const options: RemoveOptions = {
      version: number,
      scan: scanOf(args.scan),
      restart: args.restart === true,
      keepCopy: args["keep-copy"] === true,
    };
    return await withInstall(args.config, { output }, async (context) => {
      const keepCopy = options.keepCopy;
      if (keepCopy && !context.provider.copyable) throw noCopy("the keys are in an HSM: a key never leaves its token");
      const doc = await checkRemoval(context, number);
      if (keepCopy && doc.state === "staged")
        throw noCopy(`KEK version ${number} is staged, and its key is not destroyed`);
      output.log.info(whatWillBe(doc, await backupsNote(context, doc)));
      if (options.scan === "registered" && doc.state !== "staged") output.log.warn(NOT_SEEN);
      const reporter = scanReporter(output);
      if (args["dry-run"] === true) {
        const scanned = await searchDatabase(context, options, doc, reporter);
        const found =
          scanned === undefined
            ? `no registered field needs KEK version ${number}; nothing else was read`
            : `nothing needs KEK version ${number}; ${readText(scanned)}`;
        const text = `${found}\nnothing was changed: this was a dry run`;
        output.result(text, { dry_run: true, version: number, state: doc.state, scan: options.scan });
        return EXIT.done;
      }
      if (args.yes !== true && !(await output.confirm(`Remove KEK version ${number}?`))) {
        throw new KekError("cancelled", "nothing was removed", "run it again when you are sure");
      }
      const removal = await remove(context, options, reporter);
      output.result(describeRemoval(removal), removal);
      return EXIT.done;
    });
  },
});

/** @throws KekError `usage`. */
function scanOf(given: string | undefined): RemoveOptions["scan"] {
  if (given === undefined || given === "all") return "all";
  if (given === "registered") return "registered";
  throw new KekError("usage", `--scan=${given} is neither all nor registered`, "give --scan=all or --scan=registered");
}

export function describeRemoval({
  version: number,
  outcome,
  destroyed,
  remaining,
  copy,
  advice,
  scanned,
}: Removal): string {
  const lines = [`KEK version ${number} is ${outcome}`];
  if (scanned !== undefined) lines.push(`  ${readText(scanned)}: no envelope needs it`);
  for (const name of destroyed) lines.push(`  taken out: ${name}`);
  for (const name of remaining) lines.push(`  take it out yourself: ${name}`);
  if (copy !== undefined) lines.push(`  a copy of the key is in ${copy}: move it to your secret store`);
  if (advice !== undefined) lines.push(`  ${advice}`);
  return lines.join("\n");
}

// ---------------------------------------------------------------------------------------------------------------------

const NOT_SEEN =
  "--scan=registered counts the registered fields only: envelopes in other collections or at other paths are not seen, and are lost with the key";

function whatWillBe(doc: VersionDoc, backups: string): string {
  const { _id: number, state } = doc;
  if (state === "destroyed")
    return `KEK version ${number} is destroyed already: making sure that nothing of its key is left here`;
  if (state === "staged") return `KEK version ${number} is staged: no record is under it. It will be forgotten`;
  return `KEK version ${number} is ${state}: its key will be destroyed; ${backups}`;
}

function noCopy(why: string): KekError {
  return new KekError("usage", `--keep-copy keeps nothing here: ${why}`, "leave --keep-copy out");
}
