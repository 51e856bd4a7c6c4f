import { EXIT, KekError } from "../errors/errors.ts";
import { type ChainReport, FAULTS_LISTED, verifyChain } from "../store/audit_log.ts";
import { leaf } from "./command.ts";
import { withInstall } from "./session.ts";

/** `audit verify`: walks the chain. */
export default leaf({
  summary: "Walk the audit log's hash chain from its first entry to its last",
  args: {},
  async run({ args, output }) {
    return await withInstall(args.config, { output, keys: false }, async ({ store, config }) => {
      const report = await verifyChain(store, config.audit.secret);
      if (config.audit.secret === "") {
        output.log.warn("CERTAUTOPILOT_AUDIT_SECRET is not set: the chain shows accidents, not forgery");
      }
      const faults = report.faults.map((fault) => `entry ${fault.seq}: ${fault.reason}`);
      const text =
        faults.length === 0
          ? `whole: ${report.entries} entries; the last mac is ${report.lastMac ?? "-"} (note it elsewhere: a chain cut off at its end shows nothing)`
          : noneFits(report)
            ? "no entry fits the secret that was given"
            : faults.join("\n");
      output.result(text, { whole: faults.length === 0, ...report });
      if (faults.length === 0) return EXIT.done;
      return output.complain(broken(report));
    });
  },
});

// ---------------------------------------------------------------------------------------------------------------------

/** When not one entry fits, it is more likely the secret than the log. */
function noneFits({ entries, faults }: ChainReport): boolean {
  return entries > 1 && faults.length === Math.min(entries, FAULTS_LISTED);
}

function broken(report: ChainReport): KekError {
  const { faults } = report;
  const first = `entry ${faults[0]?.seq}: ${faults[0]?.reason}`;
  if (noneFits(report)) {
    return new KekError(
      "audit_broken",
      `no entry of the audit chain fits: ${first}`,
      "CERTAUTOPILOT_AUDIT_SECRET is probably not the one that the fleet writes with",
    );
  }
  return new KekError(
    "audit_broken",
    `the audit chain is broken: ${first}`,
    "compare with the SIEM's copy; keep this database as evidence",
  );
}
