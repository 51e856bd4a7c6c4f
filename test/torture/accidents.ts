import { type Collection, type Db, type Document, MongoServerError } from "mongodb";
import { Random } from "./random.ts";
import type { Act, OddIndex } from "./schedule.ts";

/** What people do to the database behind the product's back, and how it is put right in the end. */

const RECORDS = "secrets";
const RENAMED = "secrets_renamed";
export const FIELD = "secrets:value";
const VERSION = "value.kek_version";
const OWN_INDEX = `${VERSION}_1__id_1`;
const ODD_INDEX = "of the application";

export class Accidents {
  readonly #db: Db;
  readonly #random: Random;
  readonly #fieldCommand: (verb: "add" | "remove") => Promise<boolean>;
  /** Records as they were once: what a restore from a backup puts back. */
  #copy: Document[] = [];
  #restores = 0;
  #turn: Promise<unknown> = Promise.resolve();

  /** @param fieldCommand runs `kek field`; false where the program does not have it. */
  constructor(db: Db, seed: number, fieldCommand: (verb: "add" | "remove") => Promise<boolean>) {
    this.#db = db;
    this.#random = new Random(seed ^ 0xacc1);
    this.#fieldCommand = fieldCommand;
  }

  /**
   * One at a time: nobody renames a collection, or puts an old envelope into it past its validator, in the very moment in which
   * a key is destroyed. No program could see that.
   */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => undefined);
    return await mine;
  }

  async copy(): Promise<void> {
    this.#copy = await this.#records.find({}, { promoteValues: false }).toArray();
  }

  /** @throws what MongoDB answers. */
  async perform(act: Act): Promise<void> {
    switch (act.act) {
      case "rename away":
        await this.alone(() => this.#records.rename(RENAMED));
        await Bun.sleep(act.ms);
        return await this.alone(() => this.#renameBack());
      case "hide index":
        return await this.#hide(true);
      case "drop index":
        return void (await this.#records.dropIndex(OWN_INDEX));
      case "odd index":
        return await this.#oddIndex(act.kind);
      case "empty kek_fields":
        return void (await this.#db.collection("kek_fields").deleteMany({}));
      case "unregister":
        // Refused while it holds envelopes; then it is taken out of the list by hand.
        await this.#fieldCommand("remove");
        return void (await this.#db.collection<{ _id: string }>("kek_fields").deleteOne({ _id: FIELD }));
      case "put back":
        return await this.alone(() => this.#putBack(act.share));
    }
  }

  /** Everything where it was, so that the product has no reason to refuse. */
  async putRight(withinMs: number): Promise<void> {
    const until = performance.now() + withinMs;
    for (;;) {
      try {
        await this.#renameBack();
        await this.indexesRight();
        const _id = FIELD;
        const [collection, path] = FIELD.split(":");
        await this.#db
          .collection<{ _id: string }>("kek_fields")
          .updateOne({ _id }, { $setOnInsert: { collection, path } }, { upsert: true });
        return;
      } catch (thrown) {
        if (performance.now() > until) throw thrown;
        await Bun.sleep(200);
      }
    }
  }

  /** Ours can be counted by. */
  async indexesRight(): Promise<void> {
    await this.#ignoring(INDEX_NOT_FOUND, () => this.#records.dropIndex(ODD_INDEX));
    await this.#ignoring(INDEX_NOT_FOUND, () => this.#hide(false));
  }

  // -------------------------------------------------------------------------------------------------------------------

  get #records(): Collection {
    return this.#db.collection(RECORDS);
  }

  async #renameBack(): Promise<void> {
    for (;;) {
      const names = (await this.#db.listCollections({}, { nameOnly: true }).toArray()).map(({ name }) => name);
      if (!names.includes(RENAMED)) return;
      // Whoever makes an index on a collection that is not there creates it; nobody writes a record into it.
      const made = names.includes(RECORDS) ? await this.#records.countDocuments() : 0;
      if (made > 0) throw new Error(`${made} records were made while ${RECORDS} was renamed`);
      await this.#db
        .collection(RENAMED)
        .rename(RECORDS, { dropTarget: true })
        .catch((thrown) => {
          if (thrown instanceof MongoServerError && thrown.code === NAMESPACE_NOT_FOUND) return;
          throw thrown;
        });
    }
  }

  async #hide(hidden: boolean): Promise<void> {
    await this.#db.command({ collMod: RECORDS, index: { name: OWN_INDEX, hidden } });
  }

  async #oddIndex(kind: OddIndex): Promise<void> {
    const name = ODD_INDEX;
    const [key, options] = (
      {
        partial: [{ [VERSION]: 1, _id: 1 }, { partialFilterExpression: { revision: { $gt: 2 } } }],
        sparse: [{ [VERSION]: 1, _id: 1 }, { sparse: true }],
        descending: [{ [VERSION]: -1, _id: 1 }, {}],
        "same key": [{ [VERSION]: 1 }, {}],
      } as const
    )[kind];
    await this.#records.createIndex(key, { ...options, name });
  }

  /** A restore of some records from a backup: the same value, under the wrap that it had then, past the validator. */
  async #putBack(share: number): Promise<void> {
    this.#restores += 1;
    const versions = await this.#db.collection<{ _id: number; state: string }>("kek_versions").find().toArray();
    const retired = versions.filter(({ state }) => state === "retired").map(({ _id }) => _id);
    const chosen = this.#copy.filter(({ value }) => retired.includes(Number(value.kek_version)));
    for (const { _id, revision, value } of chosen.filter(() => this.#random.chance(share)))
      await this.#records.updateOne(
        { _id, revision },
        { $set: { value, restored: this.#restores } },
        { bypassDocumentValidation: true },
      );
    await this.copy();
  }

  async #ignoring(codes: number[], work: () => Promise<unknown>): Promise<void> {
    await work().catch((thrown) => {
      if (!(thrown instanceof MongoServerError) || !codes.includes(Number(thrown.code))) throw thrown;
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const NAMESPACE_NOT_FOUND = 26;
/** The index, or its collection, is not there. */
const INDEX_NOT_FOUND = [27, NAMESPACE_NOT_FOUND];
