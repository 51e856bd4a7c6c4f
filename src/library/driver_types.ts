/**
 * As much of the mongodb driver's `Collection` as is used here. The application brings a driver of its own, of whatever
 * version; its `db.collection("users")` fits this type.
 */
export interface DriverCollection {
  readonly dbName: string;
  readonly collectionName: string;
  insertOne(document: object, options?: object): Promise<object>;
  insertMany(documents: readonly object[], options?: object): Promise<object>;
  replaceOne(filter: object, replacement: object, options?: object): Promise<object>;
  updateOne(filter: object, update: object, options?: object): Promise<object>;
  findOne(filter: object, options?: object): Promise<object | null>;
  findOneAndUpdate(filter: object, update: object, options?: object): Promise<object | null>;
  find(filter: object, options?: object): DriverCursor;
}

export interface DriverCursor {
  toArray(): Promise<object[]>;
  [Symbol.asyncIterator](): AsyncIterator<object>;
}

/** Options that go to the driver as they are: `session`, `writeConcern`, `maxTimeMS`, `sort`, `limit`, … */
export interface DriverOptions {
  /** In a transaction nothing is tried again here: put `encryption.write()` around the whole of it. */
  session?: object | undefined;
  [option: string]: unknown;
}

/** Whether a write is one of several that stand or fall together. */
export function inTransaction(options: DriverOptions): boolean {
  const session = options.session as { inTransaction?(): boolean } | undefined;
  return session?.inTransaction?.() === true;
}
