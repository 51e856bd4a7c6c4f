import { EXIT } from "../errors/errors.ts";
import { importSecrets } from "../transfer/import.ts";
import { unsealFrom } from "./archive_key.ts";
import { HSM_SESSIONS, hsmSessions, required } from "./arguments.ts";
import { leaf } from "./command.ts";
import { untilInterrupted } from "./interrupt.ts";
import { askPinOn, withDatabase, withHsmSessions } from "./session.ts";
import { describeImport, importData, transferReporter } from "./transfer_text.ts";

/** `import`: exit 0 only when everything was read back and is what the archive holds. */
export default leaf({
  summary: "Bring the secrets of an archive into a fresh install, sealed again, and verify that all are there",
  args: {
    in: { type: "string", description: "The archive that `certautopilot export` wrote", valueHint: "FILE" },
    "passphrase-file": {
      type: "string",
      description: "File of mode 0600 with the passphrase (default: asked on the terminal)",
      valueHint: "FILE",
    },
    "identity-file": {
      type: "string",
      description: "File of mode 0600 with the age identity of one of the recipients",
      valueHint: "FILE",
    },
    "hsm-sessions": HSM_SESSIONS,
  },
  async run({ args, output }) {
    const file = required(args.in, "in", "secrets.age");
    const sessions = hsmSessions(args["hsm-sessions"]);
    const unseal = await unsealFrom(output, args["passphrase-file"], args["identity-file"]);
    return await withDatabase(args.config, output, async (base) => {
      const config = withHsmSessions(base.config, sessions);
      const destination = { ...base, config, log: output.log, askPin: askPinOn(output) };
      const report = await untilInterrupted(output.log, (signal) =>
        importSecrets(destination, { file, unseal, signal }, transferReporter(output)),
      );
      output.result(describeImport(report), importData(report));
      return EXIT.done;
    });
  },
});
