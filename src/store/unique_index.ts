import type { Collection, CreateIndexesOptions, Document, IndexSpecification } from "mongodb";
import { type OwnCollection, unreadable } from "./document_reader.ts";
import { isDuplicateKey } from "./mongodb_errors.ts";

/**
 * Makes an index that the protocol stands on; one that is there stays.
 * @param broken what it means when documents are there already that the index would not have let in.
 * @throws KekError `document_invalid`.
 */
export async function uniqueIndex<T extends Document>({
  collection,
  name,
  keys,
  options,
  broken,
}: {
  collection: Collection<T>;
  name: OwnCollection;
  keys: IndexSpecification;
  options: CreateIndexesOptions;
  broken: string;
}): Promise<void> {
  try {
    await collection.createIndex(keys, { ...options, unique: true });
  } catch (thrown) {
    throw isDuplicateKey(thrown) ? unreadable(name, broken) : thrown;
  }
}
