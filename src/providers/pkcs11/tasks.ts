import type { Capability, Proof } from "../provider.ts";
import { probeToken } from "./capabilities.ts";
import { block } from "./gate.ts";
import {
  awaitKey,
  Contended,
  type Destruction,
  describeKeys,
  destroyKey,
  listVersions,
  makeKey,
  tidyKeys,
  type Wanted,
} from "./key_life.ts";
import type { KeyFacts } from "./key_object.ts";
import { findKeys } from "./key_search.ts";
import type { SteadySession } from "./steady.ts";

/** What is asked of a session besides wrapping and unwrapping, as data, with what is answered. */

export type Task =
  | { do: "open" }
  | { do: "list"; versions: number[] }
  | { do: "describe"; version: number }
  | { do: "check"; version: number }
  | { do: "limit" }
  | { do: "probe"; ownIvs: boolean; sessions: number; versions: number[] }
  | { do: "make"; version: number; installId: string }
  | { do: "tidy"; version: number; installId: string; recorded: string; proof: Proof }
  | { do: "destroy"; version: number; proof: Proof };

export interface TaskValue {
  open: undefined;
  list: number[];
  describe: KeyFacts[];
  check: undefined;
  /** How many sessions the token gives one process; undefined when it does not say. */
  limit: number | undefined;
  probe: Capability[];
  make: KeyFacts;
  tidy: KeyFacts;
  destroy: Destruction;
}

/** Blocking. @throws KekError */
export function perform<T extends Task>(steady: SteadySession, task: T, patienceMs: number): TaskValue[T["do"]] {
  return done(steady, task, patienceMs) as TaskValue[T["do"]];
}

/** Waits for another run to take its key out again. */
function makeInTheEnd(steady: SteadySession, wanted: Wanted, patienceMs: number): KeyFacts {
  for (let tries = 1; ; tries += 1) {
    try {
      return steady.attempt(patienceMs, (open) => makeKey(open, wanted));
    } catch (thrown) {
      if (!(thrown instanceof Contended) || tries === CONTENDED_TRIES) throw thrown;
      block(CONTENDED_PAUSE_MS);
    }
  }
}

const CONTENDED_TRIES = 20;
const CONTENDED_PAUSE_MS = 100;

// ---------------------------------------------------------------------------------------------------------------------

function done(steady: SteadySession, task: Task, patienceMs: number): TaskValue[Task["do"]] {
  switch (task.do) {
    case "check":
      return steady.attempt(patienceMs, (open) => {
        steady.keys.check(open, task.version);
        return undefined;
      });
    case "open":
      return steady.attempt(patienceMs, () => undefined);
    case "limit":
      return steady.attempt(patienceMs, ({ module, token }) => module.token(token.slot).maxSessions);
    case "list":
      return steady.attempt(patienceMs, (open) => listVersions(open, task.versions));
    case "describe":
      return steady.attempt(patienceMs, (open) => describeKeys(open, task.version));
    case "probe":
      return steady.attempt(patienceMs, (open) => {
        const existing = task.versions.flatMap((version) => findKeys(open, version, 1))[0];
        return probeToken(open, { ownIvs: task.ownIvs, existing, sessions: task.sessions });
      });
    case "make": {
      const made = makeInTheEnd(steady, task, patienceMs);
      // A cluster may tell its other members a moment later.
      steady.attempt(patienceMs, (open) => awaitKey(open, task.version));
      return made;
    }
    case "tidy":
      return steady.attempt(patienceMs, (open) =>
        tidyKeys(open, task, task.recorded, (key) => steady.wrapping.opens(open, key, task.proof)),
      );
    case "destroy":
      return steady.attempt(patienceMs, (open) =>
        destroyKey(open, task.version, (key) => steady.wrapping.opens(open, key, task.proof)),
      );
  }
}
