import { KekError } from "../errors/errors.ts";
import { ItemFailure, mapConcurrently } from "../util/map_concurrently.ts";

/** How many values of one call are in flight at once: enough for 32 sessions of a token with 8 waiting for each. */
const AT_ONCE = 256;

/**
 * Does the same with each value, many at once, and keeps their order.
 * @throws the error of the first value that fails; a KekError with the value's number, counted from 0.
 */
export async function inOrder<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  try {
    return await mapConcurrently(items, AT_ONCE, work);
  } catch (thrown) {
    throw thrown instanceof ItemFailure ? numbered(thrown, items.length) : thrown;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function numbered({ index, cause }: ItemFailure, count: number): unknown {
  if (!(cause instanceof KekError) || count === 1) return cause;
  return new KekError(cause.code, `item ${index} of ${count}: ${cause.message}`, cause.hint, { cause });
}
