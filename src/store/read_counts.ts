import type { Store } from "./store.ts";

/** MongoDB's own count of what is asked of a collection, by whomever. */

/** Reads since MongoDB started: finds, aggregations and each further batch of a cursor. By shard, or by host where there are none. */
export type ReadCounts = Map<string, number>;

/** @returns undefined where MongoDB does not say, for whatever reason: it is a hint, and nothing hangs on it. */
export async function countReads(store: Store, collection: string): Promise<ReadCounts | undefined> {
  try {
    const rows = await store.db
      .collection(collection)
      .aggregate<Stats>([{ $collStats: { latencyStats: {} } }], { readConcern: { level: "local" } })
      .toArray();
    return new Map(rows.map(({ shard, host, latencyStats }) => [`${shard ?? host}`, Number(latencyStats.reads.ops)]));
  } catch {
    return undefined;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

interface Stats {
  shard?: string;
  host: string;
  latencyStats: { reads: { ops: unknown } };
}
