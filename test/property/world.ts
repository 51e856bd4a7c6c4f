import { randomUUID } from "node:crypto";
import { Binary, Double, Int32, Long, ObjectId } from "bson";
import type { CreateCollectionOptions, Db, Document, IndexSpecification } from "mongodb";
import { Random } from "../torture/random.ts";
import { Install, placeOf } from "./install.ts";
import { Ledger } from "./ledger.ts";
import type { CollectionPlan, FieldPlan, IdKind, IndexKind, NumberKind, Story } from "./story.ts";

/** The database of one case, and what the test knows of it beside what is stored there. */

export interface LiveCollection {
  plan: CollectionPlan;
  /** What it is called now. */
  name: string;
}

export interface LiveField {
  at: LiveCollection;
  plan: FieldPlan;
}

export type FieldDoc = { _id: string; collection: string; path: string };

export class World {
  readonly db: Db;
  readonly story: Story;
  readonly random: Random;
  readonly install = new Install();
  readonly ledger = new Ledger();
  readonly collections: LiveCollection[] = [];
  readonly fields: LiveField[] = [];
  /** `<collection>:<path>` of fields that somebody has registered, and nobody has taken out since. */
  readonly registered = new Set<string>();
  /** Those that were ever registered. */
  readonly everRegistered = new Set<string>();
  copyOfFields: FieldDoc[] = [];
  #serial = 0;

  constructor(db: Db, story: Story) {
    this.db = db;
    this.story = story;
    this.random = new Random(story.seed ^ 0x5eed);
  }

  /** Everything that the story begins with. @returns what MongoDB refused, in words. */
  async build(): Promise<string[]> {
    const refused: string[] = [];
    const tried = async (what: string, work: () => Promise<unknown>) =>
      void (await work().catch((thrown: Error) => refused.push(`${what}: ${thrown.message}`)));
    await this.install.write(this.db);
    await Promise.all(
      this.story.collections.map(async (plan) => {
        const at: LiveCollection = { plan, name: plan.name };
        this.collections.push(at);
        for (const field of plan.fields) this.fields.push({ at, plan: field });
        await this.db.createCollection(plan.name, optionsOf(plan));
        const documents = [
          ...Array.from({ length: plan.records }, (_, number) => this.record(at, number)),
          ...Array.from({ length: plan.others }, () => this.#other(plan)),
        ];
        if (documents.length > 0) await this.db.collection(plan.name).insertMany(documents as never);
        for (const field of plan.fields) {
          for (const kind of field.odd)
            await tried(`index ${kind} of ${plan.name}:${field.path}`, () =>
              this.oddIndex(plan.name, field.path, kind),
            );
          // An index that is in its place already keeps the product's own from being made: then the field has only that.
          if (field.own !== "missing")
            await tried(`own index of ${plan.name}:${field.path}`, () => this.ownIndex(plan.name, field.path));
          if (field.own === "hidden")
            await tried(`hiding the index of ${plan.name}:${field.path}`, () => this.hideIndex(plan.name, field.path));
          if (field.registered) await this.register(plan.name, field.path);
        }
      }),
    );
    this.collections.sort((one, other) => this.#order(one) - this.#order(other));
    this.fields.sort((one, other) => this.#order(one.at) - this.#order(other.at));
    const [first] = this.collections;
    if (this.story.view !== "none" && first !== undefined) {
      await this.db.createCollection("a view", { viewOn: first.name, pipeline: [{ $match: {} }] });
      if (this.story.view === "registered") await this.register("a view", first.plan.fields[0]?.path ?? "secret");
    }
    this.copyOfFields = await this.registry().find().toArray();
    return refused;
  }

  registry() {
    return this.db.collection<FieldDoc>("kek_fields");
  }

  async register(collection: string, path: string): Promise<void> {
    const _id = `${collection}:${path}`;
    await this.registry().updateOne(
      { _id },
      { $setOnInsert: { collection, path, registered_by: "test" } },
      { upsert: true },
    );
    this.registered.add(_id);
    this.everRegistered.add(_id);
  }

  /** An envelope sealed for a place, and noted. */
  seal(collection: string, id: unknown, path: string, version = 1, kind: NumberKind = "int32"): object {
    const place = placeOf(collection, id, path);
    const { stored, digest } = this.install.seal(place, version, kind);
    this.ledger.add(stored, { place, digest });
    return stored;
  }

  /** A record with an envelope in each field, under the name that its collection has now. */
  record({ plan, name }: LiveCollection, number: number): Document {
    const _id = this.#id(plan.ids);
    const document: Document = { _id, active: number % 3 === 0, at: new Date(1.7e12 + number), note: `note ${number}` };
    for (const { path, arrays } of plan.fields) {
      const sealed = () => this.seal(name, _id, path, 1, this.random.pick(plan.numbers));
      put(document, path, arrays && this.random.chance(0.2) ? [sealed(), sealed()] : sealed());
    }
    return document;
  }

  async ownIndex(collection: string, path: string): Promise<void> {
    await this.db.collection(collection).createIndex({ [`${path}.kek_version`]: 1, _id: 1 });
  }

  async hideIndex(collection: string, path: string): Promise<void> {
    await this.db.command({ collMod: collection, index: { name: `${path}.kek_version_1__id_1`, hidden: true } });
  }

  async oddIndex(collection: string, path: string, kind: IndexKind): Promise<void> {
    const [key, options] = INDEXES[kind](`${path}.kek_version`);
    await this.db.collection(collection).createIndex(key, options);
  }

  serial(): number {
    this.#serial += 1;
    return this.#serial;
  }

  // -------------------------------------------------------------------------------------------------------------------

  #order({ plan }: LiveCollection): number {
    return this.story.collections.indexOf(plan);
  }

  /** Something that is no envelope, where envelopes are, or nothing. */
  #other(plan: CollectionPlan): Document {
    const document: Document = { _id: this.#id(plan.ids), active: true, at: new Date(), note: "no envelope" };
    const path = plan.fields[0]?.path ?? "secret";
    // Something in the field that names no version is refused by a rotation: it comes rarely.
    const value = this.random.weigh<unknown>([
      [undefined, 60],
      [null, 20],
      ["", 0.5],
      [[], 0.5],
      ["plain text", 0.5],
      [{ kek_version: 7 }, 0.5],
      [{ kek_version: "1" }, 0.5],
    ]);
    if (value !== undefined) put(document, path, value);
    return document;
  }

  #id(kind: IdKind): unknown {
    const number = this.serial();
    return IDS[kind](number);
  }
}

/** Sets a value at a dotted path. */
export function put(document: Document, path: string, value: unknown): void {
  const names = path.split(".");
  const last = names.pop() as string;
  let at = document;
  for (const name of names) {
    at[name] ??= {};
    at = at[name];
  }
  at[last] = value;
}

// ---------------------------------------------------------------------------------------------------------------------

const IDS: Record<IdKind, (number: number) => unknown> = {
  int: (number) => number,
  text: (number) => `record-${number}`,
  "object id": () => new ObjectId(),
  double: (number) => new Double(number + 0.5),
  long: (number) => Long.fromNumber(number).add(Long.fromString("9000000000000000")),
  document: (number) => ({ tenant: "b", number: new Int32(number) }),
  uuid: () => new Binary(Buffer.from(randomUUID().replaceAll("-", ""), "hex"), 4),
  date: (number) => new Date(1.6e12 + number),
};

const SCHEMA = {
  $jsonSchema: { bsonType: "object", required: ["note"], properties: { note: { bsonType: "string" } } },
};

function optionsOf({ kind }: CollectionPlan): CreateCollectionOptions {
  switch (kind) {
    case "plain":
      return {};
    case "collation":
      return { collation: { locale: "de", strength: 2, numericOrdering: true } };
    case "capped":
      return { capped: true, size: 4 * 1024 * 1024 };
    case "validator":
      return { validator: SCHEMA };
    case "moderate":
      return { validator: SCHEMA, validationLevel: "moderate" };
    case "warn":
      return { validator: { note: { $type: "int" } }, validationAction: "warn" };
    case "time series":
      return { timeseries: { timeField: "at", metaField: "meta" } };
  }
}

type Index = [key: IndexSpecification, options: Document];
const ENGLISH = { collation: { locale: "en", strength: 1, numericOrdering: true } };

const INDEXES: Record<IndexKind, (version: string) => Index> = {
  "partial by a flag": (key) => [
    { [key]: 1, _id: 1 },
    { name: "mine", partialFilterExpression: { active: true } },
  ],
  "partial by the version": (key) => [
    { [key]: 1, _id: 1 },
    { name: "newer", partialFilterExpression: { [key]: { $gt: 1 } } },
  ],
  sparse: (key) => [
    { [key]: 1, _id: 1 },
    { name: "sparse", sparse: true },
  ],
  collation: (key) => [
    { [key]: 1, _id: 1 },
    { name: "english", ...ENGLISH },
  ],
  unique: (key) => [
    { [key]: 1, _id: 1 },
    { name: "unique", unique: true },
  ],
  descending: (key) => [{ [key]: -1, _id: 1 }, {}],
  "other order": (key) => [{ _id: 1, [key]: 1 }, {}],
  "prefix only": (key) => [{ [key]: 1 }, {}],
  hashed: (key) => [{ [key]: "hashed" }, {}],
  wildcard: () => [{ "$**": 1 }, {}],
  "same key, other name": (key) => [{ [key]: 1, _id: 1 }, { name: "same key" }],
  "same key, other name, hidden": (key) => [
    { [key]: 1, _id: 1 },
    { name: "hidden", hidden: true },
  ],
  "own name, other key": (key) => [{ note: 1 }, { name: `${key}_1__id_1` }],
  "own name, partial": (key) => [
    { [key]: 1, _id: 1 },
    { name: `${key}_1__id_1`, partialFilterExpression: { active: true } },
  ],
  "own name, sparse": (key) => [
    { [key]: 1, _id: 1 },
    { name: `${key}_1__id_1`, sparse: true },
  ],
  "own name, collation": (key) => [
    { [key]: 1, _id: 1 },
    { name: `${key}_1__id_1`, ...ENGLISH },
  ],
};
