import {
  type AggregateOptions,
  type ClientSession,
  type Db,
  type Document,
  MongoClient,
  type MongoClientOptions,
  MongoWriteConcernError,
  type TransactionOptions,
} from "mongodb";
import type { Config } from "../config/config.ts";
import { checkUri } from "../config/database_uri.ts";
import { KekError } from "../errors/errors.ts";
import { withTimeLimit } from "../util/time_limit.ts";
import { clientOptions, type StoreOptions, WRITE_CONCERN } from "./client_options.ts";
import { refuseClosedSockets } from "./closed_socket_patch.ts";
import { explainMongo, hostsOf, isSnapshotGone, isTransient } from "./mongodb_errors.ts";
import { refuseUnfit } from "./topology.ts";

/** The connection. Everything the protocol reads or writes is majority, writes are journaled (docs/format.md). */
export interface Store {
  readonly client: MongoClient;
  readonly db: Db;
}

export type Session = ClientSession;

const TRANSACTION: TransactionOptions = {
  readConcern: { level: "snapshot" },
  writeConcern: WRITE_CONCERN,
  readPreference: "primary",
};

/**
 * Connects and makes sure that MongoDB can coordinate: transactions need a replica set.
 * @throws KekError `config_invalid`, `mongodb_unavailable`, `mongodb_refused`, `mongodb_no_replica_set`.
 */
export async function openStore(database: Config["database"], options: StoreOptions): Promise<Store> {
  const { uri } = database;
  refuseClosedSockets();
  checkUri(uri);
  let client: MongoClient | undefined;
  try {
    client = makeClient(uri, clientOptions(uri, options));
    const db = client.db(database.name);
    refuseUnfit(await db.command({ hello: 1 }), hostsOf(uri), client.options.directConnection);
    return { client, db };
  } catch (thrown) {
    await client?.close().catch(() => undefined);
    throw explainMongo(thrown, uri) ?? unusable(thrown);
  }
}

/** What the driver refuses before it connects is wrong in the URI. */
function makeClient(uri: string, options: MongoClientOptions): MongoClient {
  try {
    return new MongoClient(uri, options);
  } catch {
    // The driver's message may quote the URI.
    throw unusable(undefined);
  }
}

function unusable(thrown: unknown): KekError {
  const { code, path } = (thrown ?? {}) as NodeJS.ErrnoException;
  const what = path === undefined ? code : `${code}: ${path}`;
  return new KekError(
    "config_invalid",
    `CERTAUTOPILOT_DATABASE_URI cannot be used${what === undefined ? "" : ` (${what})`}`,
    "check host, port, options and the files that it names: mongodb://user:password@host:27017/?replicaSet=rs0",
    { cause: thrown },
  );
}

export async function closeStore(store: Store): Promise<void> {
  await store.client.close();
}

/** Operations in one session are causally ordered: a read sees at least what an earlier write of the session saw. */
export async function inSession<T>(store: Store, work: (session: Session) => Promise<T>): Promise<T> {
  const session = store.client.startSession({ causalConsistency: true });
  try {
    return await work(session);
  } finally {
    // Not waited for: MongoDB ends a session that nobody ends, and may be what does not answer.
    session.endSession().catch(() => undefined);
  }
}

/**
 * The answer, or an error when there is none in time. A connection may be dead without anybody having been told, and the
 * driver continues with a transaction for two minutes: whoever has a lease cannot wait for that. What comes later is of no use,
 * and the session it runs in must not be used again.
 * @throws KekError `mongodb_unavailable`.
 */
export async function within<T>(limitMs: number, work: Promise<T>): Promise<T> {
  return await withTimeLimit(limitMs, work, () => {
    throw notInTime(limitMs);
  });
}

function notInTime(limitMs: number): KekError {
  return new KekError(
    "mongodb_unavailable",
    `MongoDB has not answered within ${limitMs / 1000} s`,
    "see that a primary is there and the network is up; this program continues automatically",
  );
}

/** A transaction; `work` may run several times, so it must have no effect outside MongoDB. */
export async function transact<T>(store: Store, work: (session: Session) => Promise<T>, within?: Session): Promise<T> {
  if (within !== undefined) return await within.withTransaction(() => work(within), TRANSACTION);
  return await inSession(store, (session) => session.withTransaction(() => work(session), TRANSACTION));
}

/**
 * What several collections hold at one and the same moment: at a transaction's, in a session that is in one; in another
 * session in a single command, no older than what the session has written; else in a transaction of its own, since a primary
 * that has been replaced and does not know it yet cannot commit one.
 * @param lookups stages that add what they find to the one document of the answer.
 */
export async function atOneMoment<T extends Document>(
  store: Store,
  lookups: Document[],
  session?: Session,
): Promise<T> {
  const read = async (options: AggregateOptions) => await one<T>(store, lookups, options);
  if (session?.inTransaction() === true) return await read({ session });
  try {
    if (session !== undefined) return await read({ session, readConcern: { level: "snapshot" } });
  } catch (thrown) {
    if (!isSnapshotGone(thrown) && !isTransient(thrown)) throw thrown;
  }
  // A transaction is begun again by the driver until there is a snapshot, and a primary.
  return await transact(store, (inner) => read({ session: inner }), session);
}

/** The primary's clock. Inside a transaction too. */
export async function serverNow(store: Store, session?: Session): Promise<Date> {
  const options = session === undefined ? {} : { session };
  return (await one<{ now: Date }>(store, [{ $project: { now: "$$NOW" } }], options)).now;
}

// ---------------------------------------------------------------------------------------------------------------------

/** What stages make of a document that is empty. */
async function one<T extends Document>(store: Store, stages: Document[], options: AggregateOptions): Promise<T> {
  const [row] = await store.db.aggregate<T>([{ $documents: [{}] }, ...stages], options).toArray();
  if (row === undefined) throw new KekError("unexpected", "MongoDB gave no answer to an aggregation", "report this");
  return row;
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * A command that counts once a majority has it in its journal: what the next primary does not know was not done. A command
 * takes nothing over from the client, so it is said here.
 * @param what is to be confirmed, in a word or two.
 * @param limitMs how long it may take; without it, as long as the driver waits.
 * @throws KekError `mongodb_unavailable` when a majority has not confirmed it. It may be done all the same.
 */
export async function byMajority(store: Store, what: string, command: Document, limitMs?: number): Promise<Document> {
  const writeConcern = { w: "majority", j: true };
  const within =
    limitMs === undefined
      ? { writeConcern }
      : { writeConcern: { ...writeConcern, wtimeout: limitMs }, maxTimeMS: limitMs };
  try {
    return await store.db.command({ ...command, ...within });
  } catch (thrown) {
    if (!(thrown instanceof MongoWriteConcernError)) throw thrown;
    const message = `MongoDB did not confirm ${what} by a majority: ${thrown.message}`;
    throw new KekError("mongodb_unavailable", message, "run the same command again", { cause: thrown });
  }
}
