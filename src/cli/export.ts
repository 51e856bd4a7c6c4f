import { EXIT } from "../errors/errors.ts";
import { exportSecrets } from "../transfer/export.ts";
import { sealFrom } from "./archive_key.ts";
import { HSM_SESSIONS, hsmSessions, repeated, required } from "./arguments.ts";
import { leaf } from "./command.ts";
import { untilInterrupted } from "./interrupt.ts";
import { withInstall } from "./session.ts";
import { complaintOf, describeExport, exportData, transferReporter } from "./transfer_text.ts";

/** `export`: exit 0 only when there is an archive. */
export default leaf({
  summary: "Write every secret, decrypted, into one archive sealed by a passphrase or to age recipients",
  args: {
    out: { type: "string", description: "The archive to write; no file may be there", valueHint: "FILE" },
    "passphrase-file": {
      type: "string",
      description: "File of mode 0600 with the passphrase (default: asked on the terminal)",
      valueHint: "FILE",
    },
    recipient: { type: "string", description: "Seal it to an age recipient; may be repeated", valueHint: "age1…" },
    "skip-broken": { type: "boolean", description: "Leave out records that do not open, and name them" },
    "allow-changes": { type: "boolean", description: "Keep the archive although records were written meanwhile" },
    "hsm-sessions": HSM_SESSIONS,
  },
  mayRepeat: ["recipient"],
  async run({ args, argv, output }) {
    const file = required(args.out, "out", "secrets.age");
    const sessions = hsmSessions(args["hsm-sessions"]);
    const seal = await sealFrom(output, args["passphrase-file"], repeated(argv, "recipient"));
    return await withInstall(args.config, { output, hsmSessions: sessions }, async (origin) => {
      const report = await untilInterrupted(output.log, async (signal) => {
        const options = {
          file,
          seal,
          signal,
          skipBroken: args["skip-broken"] === true,
          allowChanges: args["allow-changes"] === true,
        };
        return await exportSecrets(origin, options, transferReporter(output));
      });
      output.result(describeExport(report), exportData(report));
      const complaint = complaintOf(report);
      return complaint === undefined ? EXIT.done : output.complain(complaint);
    });
  },
});
