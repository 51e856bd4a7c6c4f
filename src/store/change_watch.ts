import { setTimeout as sleep } from "node:timers/promises";
import { deserialize } from "bson";
import type { ClientSession, Document, Long, Timestamp } from "mongodb";
import { elements, nameOf } from "../envelope/raw_elements.ts";
import { KekError } from "../errors/errors.ts";
import { isTransient, serverCode } from "./mongodb_errors.ts";
import type { Store } from "./store.ts";

/**
 * Every insert, replacement and update of the install's database since a moment, as raw events: what a read of the collections that
 * takes its time does not see. A change stream in commands of its own, for its answers are searched as bytes.
 */

/** A change stream's position. */
export type WatchToken = Document;

export class ChangeWatch {
  readonly #store: Store;
  readonly #session: ClientSession;
  #cursor: Long | undefined;
  #token: WatchToken | undefined;

  private constructor(store: Store, session: ClientSession, token: WatchToken | undefined) {
    this.#store = store;
    this.#session = session;
    this.#token = token;
  }

  /**
   * @param after where an earlier one had come to; without it, from now on.
   * @returns undefined when MongoDB has the changes since then no more.
   */
  static async open(store: Store, after?: WatchToken): Promise<ChangeWatch | undefined> {
    const watch = new ChangeWatch(store, store.client.startSession(), after);
    try {
      await watch.#begin();
      return watch;
    } catch (thrown) {
      await watch.close();
      if (after !== undefined && HISTORY_LOST.includes(serverCode(thrown) ?? 0)) return undefined;
      throw thrown;
    }
  }

  /** Everything up to here was given to `visit`. */
  get token(): WatchToken {
    return this.#token as WatchToken;
  }

  /** What there is now. @param visit gets a BSON array of events. */
  async take(visit: (events: Uint8Array) => void): Promise<void> {
    await this.#steadily(() => this.#next(visit, 1));
  }

  /** Everything up to a moment of MongoDB's. @param until of `moment`. */
  async drain(until: Timestamp, visit: (events: Uint8Array) => void): Promise<void> {
    while (before(this.#token, until)) await this.#steadily(() => this.#next(visit, 1000));
  }

  async close(): Promise<void> {
    await this.#session.endSession();
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #begin(): Promise<void> {
    const from = this.#token === undefined ? {} : { resumeAfter: this.#token };
    const reply = await this.#store.db.command(
      {
        aggregate: 1,
        pipeline: [
          { $changeStream: from },
          { $match: { operationType: { $in: ["insert", "replace", "update"] } } },
          { $project: { ns: 1, documentKey: 1, fullDocument: 1, "updateDescription.updatedFields": 1 } },
        ],
        cursor: { batchSize: 0 },
        readConcern: { level: "majority" },
      },
      { session: this.#session, promoteLongs: false },
    );
    this.#cursor = reply["cursor"].id;
    this.#token ??= reply["cursor"].postBatchResumeToken;
  }

  async #next(visit: (events: Uint8Array) => void, waitMs: number): Promise<void> {
    if (this.#cursor === undefined) await this.#begin();
    const command = { getMore: this.#cursor, collection: "$cmd.aggregate", maxTimeMS: waitMs };
    // MongoDB's types leave out that the answer's subdocuments are bytes then.
    const options = { session: this.#session, raw: true } as never;
    const cursor = (await this.#store.db.command(command, options))["cursor"] as Uint8Array;
    const found = new Map(elements(cursor, 0).map((element) => [nameOf(cursor, element), element]));
    const part = (name: string) => {
      const element = found.get(name);
      if (element === undefined)
        throw new KekError("unexpected", `a change stream's answer has no ${name}`, "report this");
      return cursor.subarray(element[3], element[3] + element[4]);
    };
    visit(part("nextBatch"));
    this.#token = deserialize(part("postBatchResumeToken"));
  }

  /** From its position again, when the primary was replaced or the cursor is gone. */
  async #steadily(work: () => Promise<void>): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await work();
      } catch (thrown) {
        if (!isTransient(thrown) || tries === TRIES) throw thrown;
        this.#cursor = undefined;
        await sleep(BACKOFF_MS);
      }
    }
  }
}

/** A moment that is not before anything that MongoDB has answered until now. */
export async function moment(store: Store): Promise<Timestamp> {
  return (await store.db.command({ hello: 1 }))["operationTime"] as Timestamp;
}

// ---------------------------------------------------------------------------------------------------------------------

const TRIES = 30;
const BACKOFF_MS = 1000;
/** Change stream history lost, and a token that this cluster never gave out. */
const HISTORY_LOST = [280, 286, 40_585, 40_615, 50_811];

/** A token begins with its cluster time: the type 0x82, seconds and counter in hex (MongoDB, `ResumeToken`). */
function before(token: WatchToken | undefined, until: Timestamp): boolean {
  const [, seconds, counter] = /^82([0-9A-F]{8})([0-9A-F]{8})/i.exec(String(token?.["_data"])) ?? [];
  if (seconds === undefined || counter === undefined)
    throw new KekError("unexpected", "a change stream's token has another form than this program knows", "report this");
  const [t, i] = [Number.parseInt(seconds, 16), Number.parseInt(counter, 16)];
  return t < until.t || (t === until.t && i < until.i);
}
