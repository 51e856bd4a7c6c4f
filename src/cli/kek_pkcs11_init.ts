import { EXIT } from "../errors/errors.ts";
import { initKey } from "../fleet/key_init.ts";
import { required, version } from "./arguments.ts";
import { leaf } from "./command.ts";
import { askPinOn, withDatabase } from "./session.ts";

/** `kek pkcs11-init`: makes a KEK in the HSM. The lock is compared before the module is touched. */
export default leaf({
  summary: "Make the key of a version inside the HSM; on a fresh database, lock it for pkcs11",
  args: {
    version: { type: "string", description: "The version to make", valueHint: "N" },
  },
  async run({ args, output }) {
    const number = required(version("version", args.version), "version");
    return await withDatabase(args.config, output, async (base) => {
      const done = await initKey(base, number, askPinOn(output), (message) => output.log.info(message));
      const { key, state, already, lockedNow } = done;
      const first = lockedNow ? beginning(base.config.database.name, number) : [];
      const what = already
        ? `KEK version ${number} is there already (${state}), and verified: its key opens the canary`
        : `KEK version ${number} is made and ${state}: its key was born in the token and cannot leave it`;
      const next = already ? [] : [nextStep(number, lockedNow)];
      const text = [...first, what, `  ${key.label}, id ${key.id}, ${key.mechanism}`, ...next].join("\n");
      output.result(text, { version: number, state, already, locked_now: lockedNow, key });
      return EXIT.done;
    });
  },
});

/** A mistyped name of a database makes a new install, and takes a label in a token that another one may live by. */
function beginning(database: string, number: number): string[] {
  const locked = `the database ${database} was empty, and is locked for provider="pkcs11" from now on, for ever`;
  const late = `  its first version is ${number}: if an install with earlier ones runs already, this is not its database`;
  return number === 1 ? [locked] : [locked, late];
}

function nextStep(number: number, fresh: boolean): string {
  return fresh
    ? `  next: start the service with CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${number}; back the token up as its vendor says`
    : `  next: back the token up, declare it on every host (CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=${number} in the secrets file), then: certautopilot kek verify --target=${number}`;
}
