import process from "node:process";
import { readEnvironment } from "../config/environment.ts";
import { TARGET } from "../config/version.ts";
import { EXIT, KekError } from "../errors/errors.ts";
import { withHostLock } from "../install/host_lock.ts";
import { RELEASES } from "../install/release.ts";
import { installedReadyUrl } from "../install/survey.ts";
import { systemdRuns } from "../install/systemd.ts";
import { planUpdate, update } from "../install/update.ts";
import { leaf } from "./command.ts";
import { changesHost, refuseConfig, withInterrupt } from "./install.ts";
import { rootOf } from "./install_request.ts";

/** `update`: fetches a release, checks it, swaps the program, and swaps it back when the service does not get ready. */
export default leaf({
  summary: "Put another release of the program in place; the old one comes back when the service does not get ready",
  args: {
    version: { type: "string", description: "The release, as in 1.4.1", valueHint: "X" },
    "base-url": { type: "string", description: "Where releases are: a URL, or a directory", valueHint: "URL" },
    "allow-downgrade": { type: "boolean", description: "Take an older release too" },
    root: { type: "string", description: "The directory that the program is installed below", valueHint: "DIR" },
    "no-service": { type: "boolean", description: "Restart nothing" },
    "dry-run": { type: "boolean", description: "Say what would be done and change nothing" },
  },
  run: async ({ args, argv, output }) =>
    await withHostLock(changesHost(args), output.log, async () => {
      refuseConfig(args.config);
      const { version } = args;
      if (version === undefined || !/^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/.test(version))
        throw new KekError(
          "usage",
          version === undefined ? "--version is missing" : "--version is not a release",
          "give it as in --version=1.4.1, without a v",
        );
      if (TARGET === undefined)
        throw new KekError(
          "usage",
          "this program was built from a checkout: no release file replaces it",
          "build the new one, and run its install",
        );
      const root = rootOf(args.root);
      const started = root === "" && !argv.includes("--no-service") && systemdRuns();
      const base = args["base-url"] ?? readEnvironment()["CERTAUTOPILOT_BASE_URL"] ?? RELEASES;
      const release = { base, version, name: `certautopilot-${TARGET}` };
      const readyUrl = started ? installedReadyUrl() : undefined;
      const request = { root, release, allowDowngrade: args["allow-downgrade"] === true, readyUrl };
      const plan = await planUpdate(request);
      const from = plan.installed ?? "the program in place";
      if (!plan.change || args["dry-run"] === true) {
        const would = `would put ${version} in place of ${from}${plan.restart ? ", and restart the service" : ""}; nothing was changed`;
        output.result(plan.change ? would : "nothing to change", {
          from: plan.installed ?? null,
          to: version,
          changed: false,
        });
        return EXIT.done;
      }
      if (root === "" && process.getuid?.() !== 0)
        throw new KekError("usage", "update replaces the host's program: it needs root", "run it with sudo");
      await withInterrupt(output, (interrupted) => update(request, plan, output.log, interrupted));
      const next = plan.restart
        ? "the service runs it and is ready"
        : "no service was restarted: restart what runs it yourself";
      output.result(
        [
          `${version} is in place of ${from}`,
          `  ${next}`,
          "  run `certautopilot install` once, for what a new release lays down otherwise (units)",
        ].join("\n"),
        { from: plan.installed ?? null, to: version, changed: true, restarted: plan.restart },
      );
      return EXIT.done;
    }),
});
