import { memberName } from "../protocol/member.ts";
import type { Progress, Reporter } from "../rotation/context.ts";
import type { Prepared } from "../rotation/rotate.ts";
import { seconds } from "../util/duration.ts";
import type { Output } from "./output.ts";
import { progressLine } from "./progress_line.ts";

/** What `kek rotate` shows: a line that is redrawn on a terminal, plain lines elsewhere. */
export function progressReporter(output: Output): Reporter {
  const show = progressLine(output);
  let lastAwaited = "";
  return {
    note: (message) => output.log.info(message),
    phase(phase, meaning) {
      lastAwaited = "";
      output.log.info(`phase ${phase}: ${meaning}`);
    },
    waiting(forWhat, names) {
      if (names.length === 0) {
        if (lastAwaited !== "") output.log.info(`${forWhat}: every process has acknowledged`);
        lastAwaited = "";
        return;
      }
      const shown = names.slice(0, 5).join("; ") + (names.length > 5 ? `; and ${names.length - 5} more` : "");
      if (output.live) {
        output.draw(`${forWhat}: waiting for ${names.length}: ${shown}`);
        lastAwaited = shown;
        return;
      }
      const who = shown.replaceAll(/, silent for [^;]*/g, ", silent");
      if (who !== lastAwaited) output.log.info(`${forWhat}: waiting for ${names.length}: ${shown}`);
      lastAwaited = who;
    },
    progress: (progress) => show(rewrapLine(progress)),
  };
}

function rewrapLine({ from, to, fields, rate, eta }: Progress): string {
  const sum = (key: "done" | "remaining" | "failed") => fields.reduce((total, field) => total + field[key], 0);
  const done = sum("done");
  const left = sum("remaining");
  const percent = done + left === 0 ? 100 : Math.floor((done / (done + left)) * 100);
  const failed = sum("failed") > 0 ? `, ${sum("failed")} failed` : "";
  const rest = eta === undefined ? "" : `, ${seconds(eta * 1000)} left`;
  return `${from} → ${to}: ${percent}% (${done} done, ${left} left${failed}), ${Math.round(rate)} records/s${rest}`;
}

/** What will be done, before it is done. */
export function describePlan({ plan, roster, evict, versionCounts }: Prepared): {
  text: string;
  data: Record<string, unknown>;
} {
  const { kind, from, to } = plan;
  const records = versionCounts.filter((row) => row.version === String(from)).reduce((sum, row) => sum + row.count, 0);
  const what = {
    start: "rotate",
    repair: "repair stale envelopes",
    resume: "resume the rotation",
    reverse: "go back, replacing the unfinished rotation,",
  }[kind];
  const first = evict.length === 0 ? "" : `evict ${evict.map(memberName).join(", ")}, then `;
  const fields = new Set(versionCounts.map((row) => row.field)).size;
  const many = (count: number, one: string, more: string) => `${count} ${count === 1 ? one : more}`;
  const found = `${many(records, "record", "records")} in ${many(fields, "field", "fields")}`;
  const text = `${first}${what} from KEK version ${from} to ${to}: ${found}, ${many(roster.length, "process", "processes")} must acknowledge each of 3 phases`;
  const evicted = evict.map(({ _id }) => _id);
  return { text, data: { plan: kind, from, to, records, processes: roster.length, evict: evicted } };
}
