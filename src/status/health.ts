import { PHASE_NAMES } from "../protocol/phases.ts";
import { seconds } from "../util/duration.ts";
import type { Finding, Health, RotationView } from "./status_view.ts";

/** What a person wants to know first: is it well, what continues, what does it wait for? Pure. */

export interface HealthFacts {
  writeVersion: number | undefined;
  /** Those that have acknowledged: before that they do not serve. */
  processes: number;
  joining: number;
  rotation: RotationView | null;
  /** Records still at the version that the open rotation leaves. */
  left: number;
  findings: Finding[];
  /** How many things must be done now, and soon: more than there are reasons, where those are gathered. */
  urgent: number;
  due: number;
}

export function healthOf({
  writeVersion,
  processes,
  joining,
  rotation,
  left,
  findings,
  urgent,
  due,
}: HealthFacts): Health {
  const work = rotation === null ? undefined : workOf(rotation, left);
  if (urgent > 0) {
    const needs = `${urgent === 1 ? "1 thing needs" : `${urgent} things need`} attention`;
    return { level: "problem", headline: work === undefined ? needs : `${needs}; ${work}`, findings };
  }
  const soon = due === 0 ? "" : `; ${due === 1 ? "1 thing is" : `${due} things are`} to be done soon`;
  if (rotation !== null && work !== undefined) {
    return { level: rotation.led ? "in_progress" : "action_due", headline: capital(work), findings };
  }
  if (processes === 0) {
    const who = joining === 1 ? "the one there is has" : `the ${joining} there are have`;
    return { level: "action_due", headline: `No process serves yet: ${who} not finished joining`, findings };
  }
  const fleet = processes === 1 ? "1 process serves and writes" : `${processes} processes serve and write`;
  const headline = `Healthy: ${fleet} under KEK version ${writeVersion}${soon}`;
  return { level: due > 0 ? "action_due" : "ok", headline, findings };
}

/** What an open rotation does just now, and for whom or how long it waits. @param left records at the version it leaves. */
export function workOf(rotation: RotationView, left = rotation.remaining): string {
  const { from, to, phase, state, led, repairs, awaited, done, remaining, eta_ms: eta } = rotation;
  const which = `rotation ${from} → ${to}${repairs === true ? " of stale envelopes" : ""}`;
  if (state === "cancelled") {
    const records = left === 0 ? "no record is" : left === 1 ? "1 record is" : `${left} records are`;
    return `${which} is cancelled half way: ${records} still at version ${from}`;
  }
  const stage = `in phase ${phase} of 3 (${PHASE_NAMES[phase]})`;
  if (!led) return `${which} stands still ${stage}: nobody leads it`;
  if (awaited.length > 0) return `${which} is ${stage} and waits for ${listed(awaited)}`;
  if (phase !== 2 || done + remaining === 0) return `${which} is ${stage}`;
  const percent = Math.floor((done / (done + remaining)) * 100);
  return `${which} is ${stage}: ${percent}% of the records moved${eta === null ? "" : `, ${seconds(eta)} left`}`;
}

// ---------------------------------------------------------------------------------------------------------------------

const SHOWN = 3;

function listed(names: string[]): string {
  const more = names.length - SHOWN;
  return names.slice(0, SHOWN).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

function capital(sentence: string): string {
  return sentence.charAt(0).toUpperCase() + sentence.slice(1);
}
