import { type Document, Long, type Timestamp, UUID } from "mongodb";
import type { CollectionInfo } from "./collections.ts";
import { serverCode } from "./mongodb_errors.ts";
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

/** Where to go on in a collection. */
export interface ReadPosition {
  /** Behind the last record that was read. Positions are those of one member of a replica set, as long as it runs. */
  after: Long;
  node: string;
}

/** Which member answers as primary, and since when it runs. */
export async function primaryNode(store: Store): Promise<string> {
  const { me, topologyVersion } = await store.db.command({ hello: 1 });
  return `${me ?? "mongos"} ${topologyVersion?.processId ?? ""}`;
}

/**
 * The next batch is asked for while the one before is searched.
 * @param since a moment of MongoDB's, `moment`: what was written before it is seen.
 * @param from where to go on.
 * @throws CollectionChanged when the read is not of this collection, whole: what came so far counts for nothing.
 */
export async function* readWhole(
  store: Store,
  collection: Pick<CollectionInfo, "name" | "uuid" | "type">,
  since: Timestamp,
  from?: ReadPosition,
): AsyncGenerator<ReadBatch> {
  const { cursor, first } = await open(store, collection, since, from?.after);
  try {
    if (from !== undefined && (await primaryNode(store)) !== from.node)
      throw new CollectionChanged(`${collection.name} is read by another member now, with other positions`);
    for (let more = first; more; ) {
      const { documents } = cursor;
      // Time series, and shards, give no token.
      const position = documents.postBatchResumeToken?.["$recordId"];
      const array = documents.batch.toBytes();
      documents.clear();
      const next = cursor.hasNext();
      // The caller may throw while this answer is on its way: then nobody needs it.
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

async function open(
  store: Store,
  collection: Pick<CollectionInfo, "name" | "uuid" | "type">,
  since: Timestamp,
  after?: Long,
) {
  const positions = collection.type === "collection";
  try {
    return await begin(store, collection, since, positions, after);
  } catch (thrown) {
    const met = changed(thrown, collection.name);
    if (met !== undefined) throw met;
    // A mongos knows no positions: such a collection is read in one go.
    if (!positions || after !== undefined || !NO_RESUME_TOKEN.includes(serverCode(thrown) ?? 0)) throw thrown;
    return await begin(store, collection, since, false);
  }
}

async function begin(
  store: Store,
  { name, uuid }: Pick<CollectionInfo, "name" | "uuid">,
  since: Timestamp,
  positions: boolean,
  after?: Long,
): Promise<{ cursor: CommandCursor; first: boolean }> {
  const command = {
    find: name,
    hint: { $natural: 1 },
    readConcern: { level: "majority", afterClusterTime: since },
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
