import { KekError } from "../errors/errors.ts";

/** How many values of one call are at work at once: enough for 32 sessions of a token with 8 waiting for each. */
const AT_ONCE = 256;
/** Work that never leaves the event loop lets others in so often. */
const TURN_MS = 10;

/**
 * Does the same with each item, many at once, and keeps their order. At the first that fails nothing further is begun, and
 * once those in hand have ended that error is thrown, with the item's number in a KekError.
 */
export async function inOrder<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results = new Array<R>(items.length);
  let next = 0;
  const failures: { index: number; thrown: unknown }[] = [];
  let turn = performance.now();
  const worker = async () => {
    while (next < items.length && failures.length === 0) {
      if (performance.now() - turn > TURN_MS) {
        await new Promise((resolve) => setImmediate(resolve));
        turn = performance.now();
        continue;
      }
      const index = next++;
      try {
        results[index] = await work(items[index] as T);
      } catch (thrown) {
        failures.push({ index, thrown });
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, items.length) }, worker));
  const first = failures.sort((one, other) => one.index - other.index)[0];
  if (first === undefined) return results;
  throw numbered(first, items.length);
}

// ---------------------------------------------------------------------------------------------------------------------

function numbered({ index, thrown }: { index: number; thrown: unknown }, count: number): unknown {
  if (!(thrown instanceof KekError) || count === 1) return thrown;
  return new KekError(thrown.code, `item ${index} of ${count}: ${thrown.message}`, thrown.hint, { cause: thrown });
}
