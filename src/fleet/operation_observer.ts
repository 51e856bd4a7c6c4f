import type { ProviderName } from "../config/config.ts";
import { type ErrorCode, KekError } from "../errors/errors.ts";
import type { Awaitable } from "../providers/provider.ts";

/** What a process does with keys, told to whoever wants to count it. Nothing is measured while nobody does. */

/** `encrypt` and `decrypt` are whole calls; `wrap` and `unwrap` the part of them that the provider did. */
export type Operation = "encrypt" | "decrypt" | "wrap" | "unwrap";

export interface Observed {
  operation: Operation;
  provider: ProviderName;
  /** The code of the KekError it ended in; `other` for an error from elsewhere, such as the MongoDB driver's. */
  outcome: "ok" | ErrorCode | "other";
  seconds: number;
}

/** Called once for each operation, in its path: it is to be quick. What it throws reaches who encrypts or decrypts. */
export type Observe = (observed: Observed) => void;

/** Does the work, and tells how it went if anybody wants to know. */
export function observed<T>(
  observe: Observe | undefined,
  operation: Operation,
  provider: ProviderName,
  work: () => Promise<T>,
): Promise<T>;
export function observed<T>(
  observe: Observe | undefined,
  operation: Operation,
  provider: ProviderName,
  work: () => Awaitable<T>,
): Awaitable<T>;
export function observed<T>(
  observe: Observe | undefined,
  operation: Operation,
  provider: ProviderName,
  work: () => Awaitable<T>,
): Awaitable<T> {
  return observe === undefined ? work() : measured(observe, operation, provider, work);
}

// ---------------------------------------------------------------------------------------------------------------------

async function measured<T>(
  observe: Observe,
  operation: Operation,
  provider: ProviderName,
  work: () => Awaitable<T>,
): Promise<T> {
  const began = performance.now();
  let outcome: Observed["outcome"] = "ok";
  try {
    return await work();
  } catch (thrown) {
    outcome = thrown instanceof KekError ? thrown.code : "other";
    throw thrown;
  } finally {
    observe({ operation, provider, outcome, seconds: (performance.now() - began) / 1000 });
  }
}
