import { createHash } from "node:crypto";
import { type ChangeStream, type Document, MongoClient, type ResumeToken } from "mongodb";

/**
 * What happened in a database, in the one order that MongoDB's majority agreed on, recorded by a change stream from outside
 * the fleet. Writes that were rolled back are not in it: what a command reported as done must be.
 */

/** A change of one document, in words that the rules need. */
export type Change =
  /** @param restored grows each time that an old envelope is put back into the record, past the validator. */
  | { of: "secret"; id: number; at: Date; version: number; revision: number; payload: string; restored?: number }
  | { of: "rotation"; id: number; at: Date; doc: Document }
  | { of: "heartbeat"; id: string; at: Date; doc: Document | undefined }
  | { of: "version"; id: number; at: Date; doc: Document }
  /** Whether the records' field is in `kek_fields`. */
  | { of: "field"; at: Date; registered: boolean }
  /** Whether the records' collection has its name. */
  | { of: "renamed"; at: Date; there: boolean }
  | { of: "audit"; at: Date; event: string; actor: string; data: Document };

const SENTINEL = "torture_sentinel";

export class History {
  readonly changes: Change[] = [];
  readonly #client: MongoClient;
  readonly #database: string;
  readonly #documents = new Map<string, Document>();
  #stream: ChangeStream | undefined;
  #token: ResumeToken | undefined;
  #ended = false;
  #running: Promise<void> = Promise.resolve();

  constructor(uri: string, database: string) {
    this.#client = new MongoClient(uri, {
      readConcern: { level: "majority" },
      writeConcern: { w: "majority", journal: true },
    });
    this.#database = database;
  }

  /** From the next change on. */
  async record(): Promise<void> {
    await withinAMinute(async () => {
      this.#open();
      // The stream's cursor is made by its first look.
      const event = await this.#stream?.tryNext();
      if (event) this.#take(event);
    });
    await this.#sentinel("begin");
    this.#running = this.#follow();
    // Reported by finish(), which awaits it.
    this.#running.catch(() => undefined);
  }

  /** Everything until now is in `changes` when this returns. */
  async finish(): Promise<void> {
    await this.#sentinel("end");
    await this.#running;
    await this.#stream?.close();
    await this.#client.close();
  }

  // -------------------------------------------------------------------------------------------------------------------

  /**
   * Any member will do: events are a majority's on each. One whose disk was emptied has an oplog that begins later, and
   * cannot resume the stream even as the primary; the others can.
   */
  #open(readPreference: "primary" | "secondary" = "primary"): void {
    const options = this.#token === undefined ? {} : { resumeAfter: this.#token };
    this.#stream = this.#client.db(this.#database).watch([], { ...options, maxAwaitTimeMS: 200, readPreference });
  }

  async #sentinel(what: "begin" | "end"): Promise<void> {
    await withinAMinute(() => this.#client.db(this.#database).collection(SENTINEL).insertOne({ what }));
  }

  /** @throws what MongoDB answered, when no member has continued the stream for a minute. */
  async #follow(): Promise<void> {
    let lastEvent = performance.now();
    let preference: "primary" | "secondary" = "primary";
    while (!this.#ended) {
      try {
        const event = await this.#stream?.tryNext();
        lastEvent = performance.now();
        if (event) this.#take(event);
      } catch (thrown) {
        if (performance.now() - lastEvent > 60_000) throw thrown;
        // The primary is unavailable, or another one: it continues behind the last event that was taken.
        await Bun.sleep(200);
        await this.#stream?.close().catch(() => undefined);
        preference = preference === "primary" ? "secondary" : "primary";
        this.#open(preference);
      }
    }
  }

  // biome-ignore lint/suspicious/noExplicitAny: change events come in many shapes
  #take(event: any): void {
    this.#token = event._id;
    const collection = event.ns?.coll;
    if (collection === SENTINEL && event.fullDocument?.what === "end") this.#ended = true;
    if (event.operationType === "rename") {
      if (collection === "secrets") this.changes.push({ of: "renamed", at: new Date(event.wallTime), there: false });
      if (event.to.coll === "secrets") this.changes.push({ of: "renamed", at: new Date(event.wallTime), there: true });
    }
    if (!["insert", "update", "replace", "delete"].includes(event.operationType)) return;
    const key = `${collection} ${JSON.stringify(event.documentKey._id)}`;
    const document = afterwards(this.#documents.get(key), event);
    if (document === undefined) this.#documents.delete(key);
    else this.#documents.set(key, document);
    const change = inWords(collection, event.documentKey._id, event.wallTime, document);
    if (change !== undefined) this.changes.push(change);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Tries until it succeeds. @throws what the last attempt threw after a minute. */
async function withinAMinute(attempt: () => Promise<unknown>): Promise<void> {
  const until = performance.now() + 60_000;
  for (;;) {
    try {
      await attempt();
      return;
    } catch (thrown) {
      if (performance.now() > until) throw thrown;
      await Bun.sleep(100);
    }
  }
}

// biome-ignore lint/suspicious/noExplicitAny: change events come in many shapes
function afterwards(before: Document | undefined, event: any): Document | undefined {
  if (event.operationType === "delete") return undefined;
  if (event.operationType !== "update") return event.fullDocument;
  const document = structuredClone(plain(before ?? { _id: event.documentKey._id })) as Document;
  const { updatedFields, removedFields, truncatedArrays } = event.updateDescription;
  for (const { field, newSize } of truncatedArrays ?? []) {
    const array = at(document, field.split("."));
    if (Array.isArray(array)) array.length = newSize;
  }
  for (const [path, value] of Object.entries(updatedFields ?? {})) put(document, path.split("."), plain(value));
  for (const path of removedFields ?? []) put(document, path.split("."), undefined);
  return document;
}

/** Binary as text: what is compared is whether it changed. */
function plain(value: unknown): unknown {
  if (value === null || typeof value !== "object" || value instanceof Date) return value;
  if ("_bsontype" in value && "buffer" in value) return Buffer.from(value.buffer as Uint8Array).toString("base64");
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, plain(member)]));
}

function at(document: Document, path: string[]): unknown {
  return path.reduce<unknown>((value, name) => (value as Document | undefined)?.[name], document);
}

function put(document: Document, path: string[], value: unknown): void {
  const last = path[path.length - 1] as string;
  let holder = document;
  for (const name of path.slice(0, -1)) {
    holder[name] ??= {};
    holder = holder[name];
  }
  if (value === undefined) delete holder[last];
  else holder[last] = value;
}

function inWords(collection: string, id: unknown, wall: Date, raw: Document | undefined): Change | undefined {
  const when = new Date(wall);
  const doc = raw === undefined ? undefined : (plain(raw) as Document);
  if (collection === "process_heartbeats") return { of: "heartbeat", id: String(id), at: when, doc };
  if (collection === "kek_fields") return { of: "field", at: when, registered: doc !== undefined };
  if (doc === undefined) return undefined;
  if (collection === "secrets") {
    const { kek_version, nonce, ciphertext } = doc["value"];
    const payload = createHash("sha256").update(`${nonce} ${ciphertext}`).digest("base64url");
    const { revision, restored } = doc;
    const more = restored === undefined ? {} : { restored };
    return { of: "secret", id: Number(id), at: when, version: kek_version, revision, payload, ...more };
  }
  if (collection === "kek_rotations") return { of: "rotation", id: Number(id), at: when, doc: structuredClone(doc) };
  if (collection === "kek_versions") return { of: "version", id: Number(id), at: when, doc: structuredClone(doc) };
  if (collection === "audit_log") {
    const { event, actor, data } = doc;
    return { of: "audit", at: when, event, actor, data };
  }
  return undefined;
}
