import process from "node:process";
import { type DemoReport, demo } from "../demo/demo.ts";
import { EXIT, KekError } from "../errors/errors.ts";
import { wholeNumber } from "./arguments.ts";
import { leaf } from "./command.ts";

/** `demo`: everything it makes is private to it and removed at its end, also after Ctrl-C. */
export default leaf({
  summary: "The main job in private: a mongod, a fleet of three processes, live traffic, a rotation, a proof",
  args: {
    records: { type: "string", description: "How many secrets (default 20000)", valueHint: "N" },
  },
  async run({ args, output }) {
    const records = wholeNumber("records", args.records, 100, 1_000_000) ?? 20_000;
    const stop = new Promise<string>((resolve) => {
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => resolve(signal));
    });
    const report = await demo(records, output.log, stop);
    output.result(describe(report), report);
    if (isWhole(report)) return EXIT.done;
    throw new KekError("unexpected", "the demo did not show what it should", "report this with the lines above");
  },
});

// ---------------------------------------------------------------------------------------------------------------------

function isWhole(report: DemoReport): boolean {
  return (
    report.opened_with_v2_alone === report.records &&
    report.ciphertexts_changed === 0 &&
    report.failed_reads_and_writes === 0 &&
    (report.audit as { whole?: boolean }).whole === true
  );
}

function describe(report: DemoReport): string {
  const { seconds } = report.rotation as { seconds: number };
  const { entries } = report.audit as { entries: number };
  return [
    "",
    "What this showed:",
    `  ${report.opened_with_v2_alone} of ${report.records} secrets open with KEK version 2 alone, each with the plaintext last written`,
    `  ${report.ciphertexts_changed} of ${report.ciphertexts_compared} ciphertexts changed: only the wrapped data keys did`,
    `  ${report.reads_during_rotation} reads and ${report.writes_during_rotation} writes went on during the rotation, ${report.failed_reads_and_writes} failed`,
    `  the audit chain of ${entries} entries is whole`,
    `  the rotation took ${seconds.toFixed(1)} s from version 1 to 2, in a fleet of 5 processes that nobody restarted`,
  ].join("\n");
}
