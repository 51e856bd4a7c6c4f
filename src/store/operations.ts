import { serverCode } from "./failures.ts";
import type { Store } from "./store.ts";

/** MongoDB's own counts of what is asked of collections, by whomever. */

/**
 * Reads of these collections since MongoDB started, added up: finds, aggregations and each further batch of a cursor.
 * @returns undefined where MongoDB does not say: the right to `collStats`, which is part of `read`, is lacking, or it is no collection.
 */
export async function countReads(store: Store, collections: string[]): Promise<number | undefined> {
  try {
    const counts = await Promise.all(collections.map((collection) => readsOf(store, collection)));
    return counts.reduce((sum, count) => sum + count, 0);
  } catch (thrown) {
    if (serverCode(thrown) === undefined) throw thrown;
    return undefined;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

interface Stats {
  latencyStats: { reads: { ops: unknown } };
}

/** A row for each shard, where there are shards. */
async function readsOf(store: Store, collection: string): Promise<number> {
  const rows = await store.db
    .collection(collection)
    .aggregate<Stats>([{ $collStats: { latencyStats: {} } }], { readConcern: { level: "local" } })
    .toArray();
  return rows.reduce((sum, { latencyStats }) => sum + Number(latencyStats.reads.ops), 0);
}
