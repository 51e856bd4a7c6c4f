import { availableParallelism } from "node:os";
import { EXIT, KekError } from "../errors/errors.ts";
import { nextStepsText } from "../protocol/next_steps.ts";
import { cancel } from "../rotation/cancel.ts";
import type { Context } from "../rotation/context.ts";
import type { RotationSummary } from "../rotation/coordinator.ts";
import { remove } from "../rotation/remove.ts";
import { prepareRotation, type RotateOptions, runRotation } from "../rotation/rotate.ts";
import { HSM_SESSIONS, hsmSessions, repeated, required, version, wholeNumber } from "./arguments.ts";
import { BACKUP_FLAGS, backupCheck } from "./backup_flags.ts";
import { leaf } from "./command.ts";
import { CancelOnInterrupt } from "./interrupt.ts";
import { describeRemoval } from "./kek_remove.ts";
import type { Output } from "./output.ts";
import { describePlan, progressReporter } from "./rotate_progress.ts";
import { scanReporter } from "./scan_progress.ts";
import { withInstall } from "./session.ts";

const FLAGS_OF_A_ROTATION = [
  "to-version",
  "from-version",
  "batch-size",
  "concurrency",
  "max-rate",
  "dry-run",
  "fence",
  "remove-old",
  "require-backup",
  "no-backup-check",
  "evict",
  "hsm-sessions",
] as const;

/** `kek rotate`: start, resume, reverse or cancel. */
export default leaf({
  summary: "Rotate the fleet to a KEK version; resume, reverse or cancel a rotation",
  args: {
    "to-version": { type: "string", description: "The version to rotate to", valueHint: "N" },
    "from-version": { type: "string", description: "The version to leave; must be the one in use", valueHint: "N" },
    "batch-size": { type: "string", description: "Records a batch (default 1000)", valueHint: "N" },
    concurrency: { type: "string", description: "Worker threads (default: processors, at most 4)", valueHint: "N" },
    "max-rate": { type: "string", description: "At most so many records a second", valueHint: "N" },
    "dry-run": { type: "boolean", description: "Check everything, say what would be done, change nothing" },
    fence: {
      type: "string",
      description: "auto or off: let MongoDB reject the old version before settling",
      valueHint: "MODE",
    },
    "remove-old": { type: "boolean", description: "Destroy the old version when the rotation is complete" },
    ...BACKUP_FLAGS,
    evict: {
      type: "string",
      description: "Take a silent process off the roster first (id or name); may be repeated",
      valueHint: "NAME",
    },
    "hsm-sessions": HSM_SESSIONS,
    cancel: { type: "boolean", description: "Cancel the open rotation" },
    yes: { type: "boolean", description: "Do not ask" },
  },
  mayRepeat: ["evict"],
  async run({ args, argv, output }) {
    if (args.cancel === true) {
      const extra = FLAGS_OF_A_ROTATION.find((flag) => argv.some((word) => word.split("=")[0] === `--${flag}`));
      if (extra !== undefined)
        throw new KekError(
          "usage",
          `--cancel and --${extra} do not go together`,
          "run: certautopilot kek rotate --cancel",
        );
      return await withInstall(args.config, { output, keys: false }, async (context) => {
        const { rotation, open } = await cancel(context, (message) => output.log.info(message));
        const { _id: cancelled, from, to, phase } = rotation;
        const rest =
          open === undefined
            ? rotation.repairs === true
              ? `strays that are not back at version ${to} stay where they are, and the fleet continues as before`
              : "nothing has changed, the fleet continues as before"
            : `both versions stay readable, the rotation ${open.from} → ${open.to} is unfinished; ${nextStepsText(open)}`;
        const text = `rotation ${cancelled} (${from} → ${to}) is cancelled in phase ${phase}; ${rest}`;
        output.result(text, { cancelled, from, to, phase, open: open?._id ?? null });
        return EXIT.done;
      });
    }
    const fence = args.fence ?? "auto";
    if (fence !== "auto" && fence !== "off")
      throw new KekError("usage", `--fence=${fence} is neither auto nor off`, "give --fence=auto or --fence=off");
    const options: RotateOptions = {
      wanted: {
        to: required(version("to-version", args["to-version"]), "to-version"),
        from: version("from-version", args["from-version"]),
        removeOld: args["remove-old"] === true,
      },
      batchSize: wholeNumber("batch-size", args["batch-size"], 1, 10_000) ?? 1000,
      concurrency: wholeNumber("concurrency", args.concurrency, 1, 64) ?? Math.min(4, availableParallelism()),
      fullConcurrency: args.concurrency !== undefined,
      maxRate: wholeNumber("max-rate", args["max-rate"], 1, 10_000_000),
      fence,
      backup: backupCheck(argv),
      evict: repeated(argv, "evict"),
      dryRun: args["dry-run"] === true,
    };
    const needs = { output, hsmSessions: hsmSessions(args["hsm-sessions"]) };
    return await withInstall(args.config, needs, async (context) => {
      const interrupt = new CancelOnInterrupt(context, output.log);
      try {
        const reporter = progressReporter(output);
        const prepared = await prepareRotation(context, options, reporter);
        const plan = describePlan(prepared);
        if (args["dry-run"] === true) {
          output.result(`${plan.text}\nnothing was changed: this was a dry run`, { dry_run: true, ...plan.data });
          return EXIT.done;
        }
        output.log.info(plan.text);
        if (args.yes !== true && !(await output.confirm("Start?")))
          throw new KekError("cancelled", "nothing was changed", "run it again when you are ready");
        interrupt.check();
        const summary = await runRotation(context, {
          options,
          prepared,
          reporter,
          onStarted: (doc) => interrupt.arm(doc),
        });
        interrupt.disarm();
        const text = `complete: KEK version ${summary.to} is active, ${summary.from} is retired; ${summary.rewrapped} records rewrapped in ${summary.seconds.toFixed(1)} s`;
        if (args["remove-old"] !== true) {
          output.result(text, { ...summary, state: "completed" });
          return EXIT.done;
        }
        return await removeOld(context, summary, text, output);
      } finally {
        await interrupt.settled();
        interrupt.disarm();
      }
    });
  },
});

// ---------------------------------------------------------------------------------------------------------------------

/** The rotation is complete whatever comes of this: a refusal to destroy the key must not look like one to rotate. */
async function removeOld(context: Context, summary: RotationSummary, text: string, output: Output): Promise<number> {
  const completed = { ...summary, state: "completed" };
  try {
    const removal = await remove(
      context,
      { version: summary.from, scan: "all", restart: false, keepCopy: false },
      scanReporter(output),
    );
    output.result(`${text}\n${describeRemoval(removal)}`, { ...completed, removal });
    return EXIT.done;
  } catch (thrown) {
    if (!(thrown instanceof KekError)) throw thrown;
    const { code, message } = thrown;
    const hint = `${thrown.hint}; the rotation is complete, and the key is kept. To destroy it later: certautopilot kek remove --version=${summary.from}`;
    output.result(`${text}\nKEK version ${summary.from} is not removed`, {
      ...completed,
      removal: null,
      removal_error: { code, message, hint },
    });
    return output.complain(new KekError(code, message, hint, { cause: thrown }));
  }
}
