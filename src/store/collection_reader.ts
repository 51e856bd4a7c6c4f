import { type Document, Long, UUID } from "mongodb";
import type { CollectionInfo } from "./collections.ts";
import { serverCode } from "./failures.ts";
import type { Store } from "./store.ts";

/**
 * Reads every record of a collection, whole, in the order in which they lie: by no index, so that none can leave any out. MongoDB is
 * told which collection is meant, not only by its name.
 */

export interface ReadBatch {
  /** A BSON array of records, as MongoDB answered. */
  array: Uint8Array;
  /** Behind the last of them; undefined where MongoDB gives none (a time series, a sharded cluster). */
  position: Long | undefined;
}

/** The collection was dropped, renamed or replaced since it was listed, or the record at the position was deleted. */
export class CollectionChanged extends Error {
  override readonly name = "CollectionChanged";
}

/**
 * The next batch is asked for while the one before is at work.
 * @param after where to go on.
 * @throws CollectionChanged when the read is not of this collection, whole: what came so far counts for nothing.
 */
export async function* readWhole(
  store: Store,
  collection: Pick<CollectionInfo, "name" | "uuid" | "type">,
  after?: Long,
): AsyncGenerator<ReadBatch> {
  const { cursor, first } = await open(store, collection, after);
  try {
    for (let more = first; more; ) {
      const { documents } = cursor;
      // Time series, and shards, give no token.
      const position = documents.postBatchResumeToken?.["$recordId"];
      const array = documents.batch.toBytes();
      documents.clear();
      const next = cursor.hasNext();
      // Whoever gets the batch may throw: the answer to come is then nobody's.
      next.catch(() => undefined);
      yield { array, position: Long.isLong(position) ? position : undefined };
      more = await next;
    }
  } catch (thrown) {
    throw changed(thrown, collection.name) ?? thrown;
  } finally {
    await cursor.close();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** The driver's cursor over a command: its answers as they came, which its public form gives document by document only. */
interface CommandCursor {
  hasNext(): Promise<boolean>;
  close(): Promise<void>;
  documents: {
    batch: { toBytes(): Uint8Array };
    postBatchResumeToken: Document | null;
    clear(): void;
  };
}

const NO_RESUME_TOKEN = [2, 9, 72, 115, 168, 40415, 5743801];

async function open(store: Store, collection: Pick<CollectionInfo, "name" | "uuid" | "type">, after?: Long) {
  const positions = collection.type === "collection";
  try {
    return await begin(store, collection, positions, after);
  } catch (thrown) {
    const met = changed(thrown, collection.name);
    if (met !== undefined) throw met;
    // A mongos knows no positions: such a collection is read in one go.
    if (!positions || after !== undefined || !NO_RESUME_TOKEN.includes(serverCode(thrown) ?? 0)) throw thrown;
    return await begin(store, collection, false);
  }
}

async function begin(
  store: Store,
  { name, uuid }: Pick<CollectionInfo, "name" | "uuid">,
  positions: boolean,
  after?: Long,
): Promise<{ cursor: CommandCursor; first: boolean }> {
  const command = {
    find: name,
    hint: { $natural: 1 },
    readConcern: { level: "majority" },
    ...(uuid === undefined ? {} : { collectionUUID: UUID.createFromHexString(uuid) }),
    ...(positions ? { $_requestResumeToken: true } : {}),
    ...(after === undefined ? {} : { $_resumeAfter: { $recordId: after } }),
  };
  const cursor = store.db.runCursorCommand(command) as unknown as CommandCursor;
  try {
    return { cursor, first: await cursor.hasNext() };
  } catch (thrown) {
    await cursor.close();
    throw thrown;
  }
}

const NAMESPACE_NOT_FOUND = 26;
const QUERY_PLAN_KILLED = 175;
const KEY_NOT_FOUND = 211;
const CAPPED_POSITION_LOST = 136;
const COLLECTION_UUID_MISMATCH = 361;

function changed(thrown: unknown, name: string): CollectionChanged | undefined {
  const GONE = [NAMESPACE_NOT_FOUND, QUERY_PLAN_KILLED, KEY_NOT_FOUND, CAPPED_POSITION_LOST, COLLECTION_UUID_MISMATCH];
  if (!GONE.includes(serverCode(thrown) ?? 0)) return undefined;
  return new CollectionChanged(`${name} was dropped, renamed or replaced while it was read`, { cause: thrown });
}
