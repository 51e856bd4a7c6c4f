import { seconds } from "../fleet/readiness.ts";
import type { ProcessView, RotationView, StatusView, Verdict, VersionView } from "./status_view.ts";

/** What a person wants to know first: is it well, what goes on, what does it wait for? Pure. */

type Reason = Verdict["reasons"][number];

export interface Judged {
  phase: StatusView["phase"];
  writeVersion: number | undefined;
  processes: ProcessView[];
  rotation: RotationView | null;
  versions: VersionView[];
  /** Somebody must act now. */
  urgent: Reason[];
  /** Somebody should, soon. */
  due: Reason[];
}

const MEANING = { 1: "announce", 2: "re-wrap", 3: "settle" };

export function verdictOf(judged: Judged): Verdict {
  const { processes, rotation, writeVersion } = judged;
  const urgent = [...judged.urgent, ...failedRecords(rotation), ...emptyFleet(judged)].map(reason);
  const due = [...judged.due, ...overdue(judged.versions)].map(reason);
  const reasons = [...urgent, ...due];
  const works = rotation === null ? undefined : workOf(rotation);
  if (urgent.length > 0) {
    const count = urgent.length === 1 ? "1 thing needs" : `${urgent.length} things need`;
    return { level: "trouble", headline: `${count} attention${works === undefined ? "" : `; ${works}`}`, reasons };
  }
  if (works !== undefined) return { level: "working", headline: works, reasons };
  const fleet = processes.length === 1 ? "1 process serves" : `all ${processes.length} processes serve`;
  const headline = `Healthy: ${fleet} and ${processes.length === 1 ? "writes" : "write"} under KEK version ${writeVersion}`;
  return { level: due.length > 0 ? "due" : "well", headline, reasons };
}

/** What an open rotation does just now, and for whom or how long it waits. */
export function workOf(rotation: RotationView): string {
  const { from, to, phase, state, awaited, done, remaining, eta_ms: eta } = rotation;
  const which = `rotation ${from} → ${to}`;
  if (state === "cancelled") return `${which} is cancelled half way: ${remaining} records are still at version ${from}`;
  const stage = `${which} is in phase ${phase} of 3 (${MEANING[phase]})`;
  if (awaited.length > 0) return `${stage} and waits for ${listed(awaited)}`;
  if (phase !== 2 || done + remaining === 0) return stage;
  const percent = Math.floor((done / (done + remaining)) * 100);
  return `${stage}: ${percent}% of the records moved${eta === null ? "" : `, ${seconds(eta)} left`}`;
}

// ---------------------------------------------------------------------------------------------------------------------

const SHOWN = 3;

function listed(names: string[]): string {
  const more = names.length - SHOWN;
  return names.slice(0, SHOWN).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

function reason({ message, hint }: Reason): Reason {
  return { message, hint };
}

function failedRecords(rotation: RotationView | null): Reason[] {
  const [first] = rotation?.failed ?? [];
  if (rotation === null || first === undefined) return [];
  const count = rotation.failed_count === 1 ? "1 record" : `${rotation.failed_count} records`;
  return [
    {
      message: `${count} cannot be rewrapped; the first: ${first.id} of ${first.field}: ${first.reason}`,
      hint: `mend them, then run: certautopilot kek rotate --to-version=${rotation.to}`,
    },
  ];
}

function emptyFleet({ processes, writeVersion }: Judged): Reason[] {
  if (writeVersion === undefined) {
    const hint = "start the service: its first process activates the first version";
    return [{ message: "no KEK version is active", hint }];
  }
  if (processes.length > 0) return [];
  return [{ message: "no process is in the fleet", hint: "start the service: certautopilot serve" }];
}

function overdue(versions: VersionView[]): Reason[] {
  return versions
    .filter((version) => version.overdue)
    .map(({ version, due_at }) => ({
      message: `KEK version ${version} was due to be rotated on ${due_at?.slice(0, 10)}`,
      hint: "give every process a key of a new version N, then run: certautopilot kek rotate --to-version=N",
    }));
}
