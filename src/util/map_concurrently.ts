/** The failure of the first item, in their order, that did not succeed. */
export class ItemFailure extends Error {
  /** Counted from 0. */
  readonly index: number;

  constructor(index: number, cause: unknown) {
    super(`item ${index} failed`, { cause });
    this.index = index;
  }
}

/** Work that never leaves the event loop lets other work run after this long. */
const TURN_MS = 10;

/**
 * Does the same with each item, up to `limit` at a time.
 * @returns the results in the order of the items.
 * @throws ItemFailure with the error as its cause: no further item is begun after a failure, and those in flight have ended.
 */
export async function mapConcurrently<T, R>(
  items: readonly T[],
  limit: number,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length);
  const failures: ItemFailure[] = [];
  let next = 0;
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
        failures.push(new ItemFailure(index, thrown));
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, worker));
  const [first] = failures.sort((one, other) => one.index - other.index);
  if (first !== undefined) throw first;
  return results;
}
