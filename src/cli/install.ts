import process from "node:process";
import { EXIT, KekError } from "../errors/errors.ts";
import { applyPlan } from "../install/apply.ts";
import { withHostLock } from "../install/host_lock.ts";
import { type Prepared, prepareInstall } from "../install/install.ts";
import { LAYOUT, USER } from "../install/layout.ts";
import type { InstallRequest } from "../install/request.ts";
import { changesOf, type Step } from "../install/step.ts";
import { refuseOpenApi } from "../server/exposure.ts";
import { leaf } from "./command.ts";
import { INSTALL_FLAGS, installRequest, rootOf } from "./install_request.ts";
import type { Output } from "./output.ts";

/** `install`: shows what it will do, asks on a terminal, does it, and says what is next. */
export default leaf({
  summary: "Lay the service down on this host, or bring it to what the flags say; run again, it changes nothing",
  args: {
    ...INSTALL_FLAGS,
    "dry-run": { type: "boolean", description: "Print the whole plan and change nothing" },
    yes: { type: "boolean", description: "Do not ask" },
  },
  run: async ({ args, argv, output }) =>
    await withHostLock(changesHost(args), output.log, async () => {
      refuseConfig(args.config);
      const dry = args["dry-run"] === true;
      if (!dry) refuseNotRoot(args.root);
      const request = await installRequest(args, argv, output);
      const prepared = await prepareInstall(request);
      refuseOpenApi(prepared.config);
      const { database } = prepared.found;
      if (database.seen && !database.fence)
        output.log.warn(
          "the database's user may not collMod (no dbAdmin): rotations will count twice instead of raising the fence",
        );
      const changes = changesOf(prepared.steps);
      const lines = changes.map(({ title }) => `  ${title}`);
      // Last before the question, or the result of a dry run, so that nothing pushes them off the screen.
      const note = () => {
        for (const { message, hint } of prepared.notes) output.log.warn(`${message}\n   hint: ${hint}`);
      };
      if (changes.length === 0 || dry) {
        note();
        const text =
          changes.length === 0 ? "nothing to change" : ["would do:", ...lines, "nothing was changed"].join("\n");
        output.result(text, { changes: titles(changes), dry_run: dry });
        return EXIT.done;
      }
      output.log.info(["this is what will be done:", ...lines].join("\n"));
      note();
      if (args.yes !== true && !(await output.confirm("Go on?")))
        throw new KekError("cancelled", "nothing was changed", "run it again when you are sure");
      await withInterrupt(output, (interrupted) =>
        applyPlan(prepared.steps, { ...prepared, request, log: output.log, interrupted }),
      );
      const next = nextSteps(request, prepared);
      output.result(["done", ...next.map((line) => `  ${line}`)].join("\n"), { changes: titles(changes), next });
      return EXIT.done;
    }),
});

/** Whether a command is to change this very host. */
export function changesHost(args: { root?: string | undefined; "dry-run"?: boolean | undefined }): boolean {
  return args["dry-run"] !== true && rootOf(args.root) === "";
}

/** These commands know one place for everything. */
export function refuseConfig(config: string | undefined): void {
  if (config !== undefined)
    throw new KekError(
      "usage",
      `--config is not for this command: the file is always ${LAYOUT.config}`,
      "leave it out; --root=DIR puts another directory before it",
    );
}

/** Ctrl-C, SIGTERM, or a terminal that is closed, once: the step in hand is finished and all is undone. */
export async function withInterrupt(output: Output, work: (interrupted: AbortSignal) => Promise<void>): Promise<void> {
  const abort = new AbortController();
  const stop = () => {
    output.log.warn("interrupted: the step in hand is finished, then everything is undone");
    abort.abort();
  };
  for (const signal of INTERRUPTING) process.on(signal, stop);
  try {
    await work(abort.signal);
  } finally {
    for (const signal of INTERRUPTING) process.off(signal, stop);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const INTERRUPTING = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

const titles = (steps: Step[]) => steps.map(({ title }) => title);

function refuseNotRoot(root: string | undefined): void {
  if (rootOf(root) === "" && process.getuid?.() !== 0)
    throw new KekError(
      "usage",
      "install changes the host: it needs root",
      "run it with sudo, or lay it down below a directory with --root=DIR",
    );
}

function nextSteps(request: InstallRequest, { config, wanted, found }: Prepared): string[] {
  const { server } = config;
  const host = server.host.includes(":") ? `[${server.host}]` : server.host;
  const page = `${server.tls === undefined ? "http" : "https"}://${host}:${server.port}/settings/kek-versions`;
  const backUp = [
    `back up ${request.root}${LAYOUT.secrets} now, off this host: whoever loses the keys loses every secret`,
  ];
  if (wanted.token !== undefined) backUp.push("back the token up as its vendor says, for the same reason");
  if (request.root !== "")
    return [
      ...backUp,
      ...(found.user !== undefined || found.mayMakeUser
        ? []
        : [`no system user was made below ${request.root}: its files belong to whoever ran this`]),
      "on the host itself run `certautopilot install` once: it finishes what cannot be done from here (database, first key, start)",
    ];
  const start = request.units === "started" ? [] : startByHand(wanted, found.mongod);
  return [
    ...backUp,
    ...start,
    `see it: ${page}`,
    ADD_HOST[wanted.mongo.kind],
    "rotate, once a year or sooner: certautopilot kek verify --help, kek rotate --help (as root, or as user certautopilot)",
  ];
}

const ADD_HOST = {
  local: "this MongoDB is for one host, and listens on loopback only; a fleet begins with --mongo=external",
  external: `add a host: copy ${LAYOUT.secrets} there with mode 0600, then: certautopilot install --mongo=external --secrets-from=FILE`,
};

/** Nothing that nobody supervises is left running. */
function startByHand({ mongo }: Prepared["wanted"], mongod = "mongod"): string[] {
  const as = `setpriv --reuid=${USER} --regid=${USER} --init-groups`;
  const local =
    mongo.kind === "local"
      ? [`${as} ${mongod} --config ${LAYOUT.mongodConfig} --fork --logpath ${LAYOUT.state}/mongod.log`]
      : [];
  return [
    "start it, and have your supervisor do so from now on:",
    ...[...local, `${as} ${LAYOUT.binary} serve`].map((line) => `  ${line}`),
  ];
}
