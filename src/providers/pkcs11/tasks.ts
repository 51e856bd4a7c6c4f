import type { Capability, KeyCanary } from "../provider.ts";
import { probeToken } from "./capabilities.ts";
import {
  ConcurrentKeyCreation,
  type Destruction,
  describeKeys,
  destroyKey,
  listVersions,
  makeKey,
  type NewKey,
  requireKeyVisible,
  tidyKeys,
} from "./key_lifecycle.ts";
import type { KeyFacts } from "./key_object.ts";
import { findKeys } from "./key_search.ts";
import { block } from "./module_lock.ts";
import type { RetryingSession } from "./retrying_session.ts";

/** What is asked of a session besides wrapping and unwrapping, as data, with what is answered. */

export type Task =
  | { do: "open" }
  | { do: "list"; versions: number[] }
  | { do: "describe"; version: number }
  | { do: "check"; version: number }
  | { do: "limit" }
  | { do: "probe"; ownIvs: boolean; sessions: number; versions: number[] }
  | { do: "make"; version: number; installId: string }
  | { do: "tidy"; version: number; installId: string; recorded: string; canary: KeyCanary }
  | { do: "destroy"; version: number; canary: KeyCanary };

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
export function performTask<T extends Task>(session: RetryingSession, task: T, retryForMs: number): TaskValue[T["do"]] {
  return done(session, task, retryForMs) as TaskValue[T["do"]];
}

/** Waits for another run to take its key out again. */
function makeWithRetry(session: RetryingSession, wanted: NewKey, retryForMs: number): KeyFacts {
  for (let tries = 1; ; tries += 1) {
    try {
      return session.attempt(retryForMs, (open) => makeKey(open, wanted));
    } catch (thrown) {
      if (!(thrown instanceof ConcurrentKeyCreation) || tries === CONCURRENT_TRIES) throw thrown;
      block(CONCURRENT_PAUSE_MS);
    }
  }
}

const CONCURRENT_TRIES = 20;
const CONCURRENT_PAUSE_MS = 100;

// ---------------------------------------------------------------------------------------------------------------------

function done(session: RetryingSession, task: Task, retryForMs: number): TaskValue[Task["do"]] {
  switch (task.do) {
    case "check":
      return session.attempt(retryForMs, (open) => {
        session.keys.check(open, task.version);
        return undefined;
      });
    case "open":
      return session.attempt(retryForMs, () => undefined);
    case "limit":
      return session.attempt(retryForMs, ({ module, token }) => module.token(token.slot).maxSessions);
    case "list":
      return session.attempt(retryForMs, (open) => listVersions(open, task.versions));
    case "describe":
      return session.attempt(retryForMs, (open) => describeKeys(open, task.version));
    case "probe":
      return session.attempt(retryForMs, (open) => {
        const existing = task.versions.flatMap((version) => findKeys(open, version, 1))[0];
        return probeToken(open, { ownIvs: task.ownIvs, existing, sessions: task.sessions });
      });
    case "make": {
      const made = makeWithRetry(session, task, retryForMs);
      // A cluster may tell its other members a moment later.
      session.attempt(retryForMs, (open) => requireKeyVisible(open, task.version));
      return made;
    }
    case "tidy":
      return session.attempt(retryForMs, (open) =>
        tidyKeys(open, task, task.recorded, (key) => session.wrapping.opens(open, key, task.canary)),
      );
    case "destroy":
      return session.attempt(retryForMs, (open) =>
        destroyKey(open, task.version, (key) => session.wrapping.opens(open, key, task.canary)),
      );
  }
}
