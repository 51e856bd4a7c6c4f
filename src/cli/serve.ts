import process from "node:process";
import { loadConfig } from "../config/load.ts";
import { EXIT, KekError } from "../errors/errors.ts";
import { serve } from "../server/serve.ts";
import { HSM_SESSIONS, hsmSessions } from "./arguments.ts";
import { leaf } from "./command.ts";
import { keepOutOfCoreDumps } from "./core_dump.ts";
import { askPinOn, withHsmSessions } from "./session.ts";

/** `serve`: runs until it is told to stop, then leaves the fleet cleanly. */
export default leaf({
  summary:
    "Run a process of the fleet: follows every rotation, shows the KEK Versions page, answers /metrics, /healthz, /readyz and the API",
  args: {
    role: { type: "string", description: "api or worker (default api)", valueHint: "ROLE" },
    "hsm-sessions": HSM_SESSIONS,
  },
  async run({ args, output }) {
    const role = args.role ?? "api";
    if (role !== "api" && role !== "worker")
      throw new KekError("usage", `--role=${role} is neither api nor worker`, "give --role=api or --role=worker");
    const config = withHsmSessions(loadConfig(args.config), hsmSessions(args["hsm-sessions"]));
    if (config.audit.secret === "") {
      output.log.warn("CERTAUTOPILOT_AUDIT_SECRET is not set: the audit chain shows accidents, not forgery");
    }
    if (!keepOutOfCoreDumps()) {
      output.log.warn("a core dump of this process would hold its keys: run it without (ulimit -c 0, or LimitCORE=0)");
    }
    const told = stopSignal();
    const serving = await serve(config, { role, log: output.log, askPin: askPinOn(output) });
    output.log.info(
      `${config.instanceName} (${role}, pid ${process.pid}) is ready on ${serving.address}, writing under KEK version ${serving.encryption.writeVersion}`,
    );
    output.log.info(`stopping: ${await told}`);
    await serving.stop();
    return EXIT.done;
  },
});

/**
 * A second Ctrl-C ends the process at once. A second SIGTERM does not: whoever signals the process and its group, as `timeout`
 * does, sends two, and a process that dies while it leaves stays in the roster as a silent one.
 */
async function stopSignal(): Promise<string> {
  return await new Promise((resolve) => {
    process.on("SIGTERM", () => resolve("SIGTERM"));
    process.once("SIGINT", () => resolve("SIGINT"));
  });
}
