import { type Document, MongoServerError } from "mongodb";
import type { Act, CopyTo } from "./story.ts";
import { type LiveCollection, type LiveField, put, type World } from "./world.ts";

/** What people and applications do to a database between and during commands. */

/** @returns what was done, in words; undefined when there was nothing to do it to. @throws what MongoDB refuses. */
export async function perform(world: World, act: Act, live: boolean): Promise<string | undefined> {
  const { db, registered } = world;
  switch (act.act) {
    case "rename": {
      const at = nth(world.collections, act.collection);
      return at === undefined ? undefined : await rename(world, at, `${act.to} ${world.serial()}`);
    }
    case "rename back": {
      const at = nth(
        world.collections.filter(({ name, plan }) => name !== plan.name),
        act.collection,
      );
      return at === undefined ? undefined : await rename(world, at, at.plan.name);
    }
    case "drop": {
      const at = nth(world.collections, act.collection);
      if (at === undefined) return undefined;
      await db.collection(at.name).drop();
      return `dropped ${at.name}`;
    }
    case "empty kek_fields":
      if (act.drop) await world.registry().drop();
      else await world.registry().deleteMany({});
      registered.clear();
      return act.drop ? "dropped kek_fields" : "emptied kek_fields";
    case "copy kek_fields":
      world.copyOfFields = await world.registry().find().toArray();
      return `copied kek_fields: ${names(world)}`;
    case "restore kek_fields":
      await world.registry().deleteMany({});
      registered.clear();
      if (world.copyOfFields.length > 0) await world.registry().insertMany(world.copyOfFields);
      for (const { _id } of world.copyOfFields) registered.add(_id);
      return `restored kek_fields to: ${names(world)}`;
    case "unregister": {
      const [id] = rotated([...registered], act.field);
      if (id === undefined) return undefined;
      await world.registry().deleteOne({ _id: id });
      registered.delete(id);
      return `unregistered ${id} in the database`;
    }
    case "register": {
      const field = nth(world.fields, act.field);
      if (field === undefined) return undefined;
      await world.register(field.at.name, field.plan.path);
      return `registered ${idOf(field)} in the database`;
    }
    default:
      return await performOnFields(world, act, live);
  }
}

export function idOf({ at, plan }: LiveField): string {
  return `${at.name}:${plan.path}`;
}

export function nth<T>(items: readonly T[], n: number): T | undefined {
  return items[n % Math.max(1, items.length)];
}

// ---------------------------------------------------------------------------------------------------------------------

async function performOnFields(world: World, act: Act, live: boolean): Promise<string | undefined> {
  const { db } = world;
  switch (act.act) {
    case "hide index":
    case "drop index":
    case "odd index": {
      const field = nth(world.fields, act.field);
      if (field === undefined) return undefined;
      const [name, path] = [field.at.name, field.plan.path];
      // Nothing to do where it is not there: the program makes it when it is needed.
      if (act.act === "hide index") await unlessMissing(world.hideIndex(name, path));
      else if (act.act === "drop index")
        await unlessMissing(db.collection(name).dropIndex(`${path}.kek_version_1__id_1`));
      else await world.oddIndex(name, path, act.kind);
      return `${act.act} of ${idOf(field)}${act.act === "odd index" ? `: ${act.kind}` : ""}`;
    }
    case "move records": {
      const from = nth(world.collections, act.collection);
      if (from === undefined) return undefined;
      const to = act.to < 0 ? "archive" : (nth(world.collections, act.to) as LiveCollection).name;
      if (to === from.name) return undefined;
      const documents = await db.collection(from.name).find({}, { promoteValues: false }).toArray();
      const moved = documents.filter(() => world.random.chance(act.share));
      for (const document of moved) {
        await db.collection(to).insertOne(document);
        await db.collection(from.name).deleteOne({ _id: document["_id"] as never });
      }
      return `moved ${moved.length} of ${documents.length} records from ${from.name} to ${to}`;
    }
    case "copy envelope":
      return await copyEnvelope(world, act);
    case "annotate envelope": {
      const at = nth(world.collections, act.collection);
      const path = at?.plan.fields[0]?.path;
      if (at === undefined || path === undefined) return undefined;
      const query = { [`${path}.ciphertext`]: { $exists: true } };
      const { modifiedCount } = await db.collection(at.name).updateOne(query, { $set: { [`${path}.touched`]: true } });
      return modifiedCount === 0 ? undefined : `added a member to an envelope of ${at.name}:${path}`;
    }
    case "insert late":
      return await insertLate(world, act, live);
  }
  throw new Error(`there is no act ${act.act}`);
}

async function rename(world: World, at: LiveCollection, to: string): Promise<string> {
  const was = at.name;
  await world.db.collection(was).rename(to);
  at.name = to;
  return `renamed ${was} to ${to}`;
}

const DEPTH = 40;

/** Where a copy goes, and as what. */
function copies(envelope: unknown): Record<CopyTo, [path: string, value: unknown]> {
  return {
    field: ["copied", envelope],
    array: ["copies", ["first", envelope]],
    "array in an array": ["rows", [[1, envelope]]],
    subdocument: ["old.copy", envelope],
    deep: [Array.from({ length: DEPTH }, (_, at) => `level${at}`).join("."), envelope],
  };
}

async function copyEnvelope(world: World, act: Act & { act: "copy envelope" }): Promise<string | undefined> {
  const at = nth(world.collections, act.collection);
  const path = at?.plan.fields[0]?.path;
  if (at === undefined || path === undefined) return undefined;
  const collection = world.db.collection(at.name);
  const document = await collection.findOne({ [`${path}.ciphertext`]: { $exists: true } }, { promoteValues: false });
  const envelope = document === null ? undefined : valueAt(document, path);
  if (document === null || envelope === undefined) return undefined;
  const [where, value] = copies(envelope)[act.to];
  await collection.updateOne({ _id: document["_id"] }, { $set: { [where]: value } });
  return `copied an envelope of ${at.name}:${path} to ${where}`;
}

/** A service that read the state long ago stores what it has encrypted. */
async function insertLate(
  world: World,
  { field: n, version, elsewhere }: Act & { act: "insert late" },
  live: boolean,
): Promise<string | undefined> {
  const field = nth(world.fields, n);
  const known = await world.db.collection<{ _id: number; state: string }>("kek_versions").findOne({ _id: version });
  // Nobody who is part of the fleet holds any other key.
  if (field === undefined || known === null || known.state === "destroyed") return undefined;
  const name = elsewhere ? "elsewhere" : field.at.name;
  const _id = `late-${world.serial()}`;
  const document: Document = { _id, active: false, at: new Date(), note: "late" };
  put(document, field.plan.path, world.seal(name, _id, field.plan.path, version));
  const collection = world.db.collection<{ _id: string }>(name);
  await collection.insertOne(document as { _id: string });
  // A writer that acknowledges phases could not have been so late: what came after phase 2 is taken back.
  const rotations = world.db.collection("kek_rotations");
  if (live && (await rotations.findOne({ open: true, phase: { $lt: 3 } })) === null) {
    await collection.deleteOne({ _id });
    return undefined;
  }
  return `inserted an envelope at version ${version} into ${name}:${field.plan.path}`;
}

function valueAt(document: Document, path: string): unknown {
  return path.split(".").reduce<unknown>((value, name) => (value as Document | undefined)?.[name], document);
}

function rotated<T>(items: T[], by: number): T[] {
  const at = by % Math.max(1, items.length);
  return [...items.slice(at), ...items.slice(0, at)];
}

function names({ copyOfFields }: World): string {
  return copyOfFields.length === 0 ? "nothing" : copyOfFields.map(({ _id }) => _id).join(", ");
}

const INDEX_NOT_FOUND = 27;

async function unlessMissing(change: Promise<unknown>): Promise<void> {
  await change.catch((thrown) => {
    if (!(thrown instanceof MongoServerError) || thrown.code !== INDEX_NOT_FOUND) throw thrown;
  });
}
