import { KekError } from "../errors/errors.ts";
import { hostsOf, serverCode } from "./mongodb_errors.ts";
import type { Store } from "./store.ts";

/** Whether the user of a URI may do what the service does, found out without writing anything. */

interface Privilege {
  resource: { db?: string; collection?: string; anyResource?: boolean; cluster?: boolean };
  actions: string[];
}

/** What `readWrite` gives and the protocol uses. */
const NEEDED = ["find", "insert", "update", "remove", "createCollection", "createIndex", "changeStream"];

export interface Rights {
  /** Whether collections can be fenced (`dbAdmin`): without it a rotation counts twice instead. */
  fence: boolean;
}

/** @throws KekError `mongodb_refused` naming what is missing. */
export async function checkRights(store: Store, uri: string): Promise<Rights> {
  const refused = (what: string) =>
    new KekError(
      "mongodb_refused",
      `MongoDB at ${hostsOf(uri)} does not permit ${what} on database "${store.db.databaseName}" to the user of the URI`,
      `grant the user readWrite and dbAdmin on "${store.db.databaseName}", and check authSource in the URI`,
    );
  try {
    await store.db.listCollections({}, { nameOnly: true }).toArray();
  } catch (thrown) {
    if (serverCode(thrown) === 13) throw refused("listCollections");
    throw thrown;
  }
  const status = await store.db.command({ connectionStatus: 1, showPrivileges: true });
  const { authenticatedUsers, authenticatedUserPrivileges } = status["authInfo"] as {
    authenticatedUsers: unknown[];
    authenticatedUserPrivileges: Privilege[];
  };
  // Nobody had to log in, and listing was permitted: MongoDB runs without authorization.
  if (authenticatedUsers.length === 0) return { fence: true };
  const may = (action: string) =>
    authenticatedUserPrivileges.some(
      ({ resource: { db, collection, anyResource }, actions }) =>
        (anyResource === true || ((db === store.db.databaseName || db === "") && collection === "")) &&
        actions.includes(action),
    );
  const missing = NEEDED.filter((action) => !may(action));
  if (missing.length > 0) throw refused(missing.join(", "));
  return { fence: may("collMod") };
}
