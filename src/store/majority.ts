import { type Document, MongoWriteConcernError } from "mongodb";
import { KekError } from "../errors/errors.ts";
import type { Store } from "./store.ts";

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
