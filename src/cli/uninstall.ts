import process from "node:process";
import { EXIT, KekError } from "../errors/errors.ts";
import { withHostLock } from "../install/host_lock.ts";
import { LAYOUT } from "../install/layout.ts";
import { type Kept, planUninstall, uninstall } from "../install/uninstall.ts";
import { leaf } from "./command.ts";
import { changesHost, refuseConfig } from "./install.ts";
import { rootOf } from "./install_request.ts";

/** `uninstall`: the program and its units go; keys and data stay, unless somebody means it. */
export default leaf({
  summary: "Take the service off this host; keys and data stay, unless --purge --yes-i-mean-it",
  args: {
    purge: { type: "boolean", description: "Destroy this host's keys and data too" },
    "yes-i-mean-it": { type: "boolean", description: "Goes with --purge, and only with it" },
    root: { type: "string", description: "The directory that it is installed below", valueHint: "DIR" },
    "dry-run": { type: "boolean", description: "Say what would be done and change nothing" },
    yes: { type: "boolean", description: "Do not ask" },
  },
  run: async ({ args, output }) =>
    await withHostLock(changesHost(args), output.log, async () => {
      refuseConfig(args.config);
      const purge = args.purge === true;
      const meant = args["yes-i-mean-it"] === true;
      const root = rootOf(args.root);
      const dry = args["dry-run"] === true;
      if (meant && !purge)
        throw new KekError("usage", "--yes-i-mean-it goes with --purge", "add --purge, or leave it out");
      // Nobody else can look into what is installed, so a dry run needs it too.
      if (root === "" && process.getuid?.() !== 0)
        throw new KekError("usage", "uninstall changes the host: it needs root", "run it with sudo");
      const { steps, holds, stays } = await planUninstall({ root, purge });
      const lost = holds.map(({ path, bytes }) => `  ${root}${path} (${sizeShown(bytes)}): ${HOLDS[path]}`);
      if (purge && lost.length > 0)
        output.log.warn(
          ["this is destroyed, and cannot be restored:", ...lost, "not touched:", ...ELSEWHERE].join("\n"),
        );
      if (purge && !meant && !dry)
        throw new KekError(
          "usage",
          "--purge destroys keys: it needs --yes-i-mean-it as well",
          "back up what is listed above first; then add it",
        );
      const data = { steps: steps.map(({ title }) => title), kept: purge ? [] : holds, stays };
      const left = stays.map((what) => `  stays: ${what}`);
      if (steps.length === 0 || dry) {
        const titles = steps.map(({ title }) => `  ${title}`);
        output.result(
          steps.length === 0
            ? "nothing to remove"
            : ["would do:", ...titles, ...left, "nothing was changed"].join("\n"),
          data,
        );
        return EXIT.done;
      }
      const kept = purge ? [] : keptLines(root, holds);
      output.log.info(
        ["this is what will be done:", ...steps.map(({ title }) => `  ${title}`), ...kept, ...left].join("\n"),
      );
      const question = purge ? "Destroy all this?" : "Stop and remove the service? Keys and data stay.";
      if (args.yes !== true && !(await output.confirm(question)))
        throw new KekError("cancelled", "nothing was changed", "run it again when you are sure");
      await uninstall(root, steps, output.log);
      output.result(["done", ...(purge ? [] : keptText(root, holds)), ...left].join("\n"), data);
      return EXIT.done;
    }),
});

// ---------------------------------------------------------------------------------------------------------------------

const HOLDS: Record<string, string> = {
  [LAYOUT.etc]: "configuration, keys, audit secret, tokens and passwords",
  [LAYOUT.state]: "state, and the local MongoDB with every secret in it",
};

/** What a purge does not reach. */
const ELSEWHERE = [
  "  an external database; nobody opens its secrets without a copy of the keys above",
  "  keys inside a token",
];

function keptLines(root: string, holds: Kept[]): string[] {
  const kept = holds.map(({ path, bytes }) => `  kept: ${root}${path} (${sizeShown(bytes)}): ${HOLDS[path]}`);
  return kept.length === 0 ? [] : [...kept, "  kept: the system user certautopilot, who owns them"];
}

function keptText(root: string, holds: Kept[]): string[] {
  const again =
    "  to use them again, run install.sh; to destroy them, run install.sh, then certautopilot uninstall --purge --yes-i-mean-it";
  return holds.length === 0 ? [] : [...keptLines(root, holds), again];
}

function sizeShown(bytes: number): string {
  return bytes < 1 << 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${Math.ceil(bytes / (1 << 20))} MiB`;
}
