import type { Document } from "mongodb";
import type { TestInstall } from "./program.ts";

/** What somebody else writes into the install's own collections, taken back afterwards to the byte. */

/** Changes to documents: a member and what it is set to, or undefined to leave it out. */
export type Members = Record<string, unknown>;

export interface Forgery {
  collection: string;
  /** The document that is changed; without one, `set` is inserted as a document of its own. */
  id?: unknown;
  set: Members;
  /** In place of the index that would not let it in. */
  withoutIndex?: string;
}

/** Does the work while it stands there, and puts the collection back as it was. */
export async function whileForged<T>({ db }: TestInstall, forgery: Forgery, work: () => Promise<T>): Promise<T> {
  const { id, set, withoutIndex } = forgery;
  const collection = db.collection<Document>(forgery.collection);
  const before = await collection.find({}, { promoteValues: false }).toArray();
  const index = (await collection.indexes()).find(({ name }) => name === withoutIndex);
  if (index !== undefined) await collection.dropIndex(index.name as string);
  if (id === undefined) await collection.insertOne({ ...set } as never);
  else await forge(collection, id, set);
  try {
    return await work();
  } finally {
    await collection.deleteMany({});
    if (before.length > 0) await collection.insertMany(before as never);
    if (index !== undefined) {
      const { key, v: _version, name, ...options } = index;
      await collection.createIndex(key, { name: name as string, ...options });
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

type Documents = ReturnType<TestInstall["db"]["collection"]>;

async function forge(collection: Documents, id: unknown, set: Members): Promise<void> {
  const [setting, unsetting] = [true, false].map((is) =>
    Object.fromEntries(Object.entries(set).filter(([, value]) => (value !== undefined) === is)),
  );
  const done = await collection.updateOne({ _id: id as never }, {
    ...(Object.keys(setting ?? {}).length > 0 ? { $set: setting } : {}),
    ...(Object.keys(unsetting ?? {}).length > 0 ? { $unset: unsetting } : {}),
  } as never);
  if (done.matchedCount !== 1) throw new Error(`there is no document ${String(id)} to forge`);
}
