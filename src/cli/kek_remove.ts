import { EXIT, KekError } from "../errors/errors.ts";
import { checkRemoval, type Removal, remove } from "../rotation/remove.ts";
import { required, version } from "./arguments.ts";
import { leaf } from "./command.ts";
import { withInstall } from "./session.ts";

/** `kek remove`: says what it will do, asks on a terminal, does it. */
export default leaf({
  summary: "Destroy a retired KEK version, or forget a staged one",
  args: {
    version: { type: "string", description: "The version to remove", valueHint: "N" },
    "keep-copy": { type: "boolean", description: "Keep the destroyed key in a file beside the secrets file" },
    yes: { type: "boolean", description: "Do not ask" },
  },
  async run({ args, output }) {
    const number = required(version("version", args.version), "version");
    return await withInstall(args.config, { output }, async (context) => {
      const keepCopy = args["keep-copy"] === true;
      if (keepCopy && !context.provider.copyable) throw noCopy("the keys are in an HSM: a key never leaves its token");
      const { state } = await checkRemoval(context, number);
      if (keepCopy && state === "staged") throw noCopy(`KEK version ${number} is staged, and its key is not destroyed`);
      output.log.info(
        state === "destroyed"
          ? `KEK version ${number} is destroyed already: making sure that nothing of its key is left here`
          : state === "staged"
            ? `KEK version ${number} is staged: no record is under it. It will be forgotten`
            : `KEK version ${number} is ${state}: its key will be destroyed. Backups of the database from before its rotation will need a copy of it`,
      );
      if (args.yes !== true && !(await output.confirm(`Remove KEK version ${number}?`))) {
        throw new KekError("cancelled", "nothing was removed", "run it again when you are sure");
      }
      const removal = await remove(context, number, (message) => output.log.info(message), { keepCopy });
      output.result(describeRemoval(removal), removal);
      return EXIT.done;
    });
  },
});

export function describeRemoval({ version: number, outcome, destroyed, remaining, copy, advice }: Removal): string {
  const lines = [`KEK version ${number} is ${outcome}`];
  for (const name of destroyed) lines.push(`  taken out: ${name}`);
  for (const name of remaining) lines.push(`  take it out yourself: ${name}`);
  if (copy !== undefined) lines.push(`  a copy of the key is in ${copy}: move it to your secret store`);
  if (advice !== undefined) lines.push(`  ${advice}`);
  return lines.join("\n");
}

// ---------------------------------------------------------------------------------------------------------------------

function noCopy(why: string): KekError {
  return new KekError("usage", `--keep-copy keeps nothing here: ${why}`, "leave --keep-copy out");
}
