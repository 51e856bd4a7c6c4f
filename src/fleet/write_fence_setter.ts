import type { FieldName } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import type { FencedCollection, FenceRecord, FieldDoc, ValidatorOptions } from "../protocol/documents.ts";
import {
  type Clause,
  fences,
  rejects,
  withoutWriteFence,
  withWriteFence,
  writeFenceClause,
  writeFenceIn,
} from "../protocol/write_fence.ts";
import { DOCUMENT_VALIDATION_FAILURE } from "../store/mongodb_errors.ts";
import type { FenceRecorder } from "../store/rotation_records.ts";
import type { Store } from "../store/store.ts";
import {
  countViolations,
  freezeOptions,
  readValidators,
  sameOptions,
  setValidator,
  thawOptions,
} from "../store/validators.ts";
import { removalCommand } from "./write_fence_command.ts";

/** Sets and lifts the fence: first the record of what is to be, then the collections, then a look at what is. */

export interface WriteFenceOutcome {
  /** Collections that could not be fenced, with the reason in words. */
  unfenced: { collection: string; reason: string }[];
  /** Those of them where MongoDB does not permit it to this user. */
  refused: string[];
  /** Collections whose validator was changed by this call. */
  changed: string[];
}

/**
 * @param versions the versions that MongoDB is to reject; none lifts the fence and restores every collection's own rules.
 * @param tell hears what it waits for.
 * @returns undefined when the record was refused, or stands no longer.
 */
export async function setWriteFence(
  store: Store,
  {
    fields,
    before,
    versions,
    recorder,
    tell,
  }: {
    fields: FieldDoc[];
    before: FenceRecord;
    versions: number[];
    recorder: FenceRecorder;
    tell: (message: string) => void;
  },
): Promise<WriteFenceOutcome | undefined> {
  const names = [
    ...new Set([...fields.map((field) => field.collection), ...before.collections.map((entry) => entry.collection)]),
  ];
  const live = await readValidators(store, names);
  const outcome: WriteFenceOutcome = { unfenced: [], refused: [], changed: [] };
  const wanted: FencedCollection[] = [];
  for (const name of names) {
    const options = live.get(name);
    if (options === undefined) continue;
    const paths = fields.filter((field) => field.collection === name).map((field) => field.path);
    const own = ownOptions(
      options,
      before.collections.find((entry) => entry.collection === name),
    );
    const clause = versions.length === 0 || paths.length === 0 ? undefined : writeFenceClause(paths, versions);
    const expected = clause === undefined ? own : await merged(store, name, own, clause);
    if (expected === undefined)
      outcome.unfenced.push({ collection: name, reason: "documents break its moderate validator" });
    wanted.push({ collection: name, own: freezeOptions(own), expected: freezeOptions(expected ?? own) });
  }
  if (!(await recorder.record({ versions, collections: wanted, ...unfencedNames(outcome) }))) return undefined;
  if (import.meta.crashPoints) crashPoint("fence.recorded");
  for (const entry of wanted) {
    const expected = thawOptions(entry.expected);
    if (sameOptions(live.get(entry.collection) ?? {}, expected)) continue;
    const answer = await setValidator(store, entry.collection, expected, { may: () => recorder.stands(), tell });
    if (import.meta.crashPoints) crashPoint("fence.validator_set");
    if (answer === "given up") return undefined;
    if (answer === "set") {
      outcome.changed.push(entry.collection);
      continue;
    }
    outcome.unfenced.push({ collection: entry.collection, reason: "MongoDB does not permit collMod" });
    outcome.refused.push(entry.collection);
  }
  if (outcome.refused.length === 0) return outcome;
  // What MongoDB refused is known only now. Nobody is to expect anything there but what the collection has.
  const collections = wanted.map((entry) =>
    outcome.refused.includes(entry.collection)
      ? { ...entry, expected: freezeOptions(live.get(entry.collection) ?? {}) }
      : entry,
  );
  return (await recorder.record({ versions, collections, ...unfencedNames(outcome) })) ? outcome : undefined;
}

/** A collection whose live validator rejects a version at fields that are registered. */
export interface RejectingCollection {
  collection: string;
  paths: string[];
  /** The mongosh command that removes the write fence from it and keeps the collection's own rules. */
  remedy: string;
}

/**
 * Which collections' live validators reject a version, whatever the newest rotation's record says. When it is the version that
 * is written now, no service can store a secret there: the `kek_` collections were restored from a copy that is older than the
 * validators, or somebody changed a validator. `rejectionText` puts it into words.
 * @param record of the newest rotation, where there is one: it knows rules of the collection's own that the fence laid aside.
 */
export async function rejectedWriteVersion(
  store: Store,
  fields: FieldDoc[],
  version: number,
  record?: FenceRecord,
): Promise<RejectingCollection[]> {
  const live = await readValidators(store, [...new Set(fields.map((field) => field.collection))]);
  return rejectingCollections({ database: store.db.databaseName, live, fields, version, record });
}

/** The same of validators that were read: pure. */
export function rejectingCollections({
  database,
  live,
  fields,
  version,
  record,
}: {
  database: string;
  live: ReadonlyMap<string, ValidatorOptions>;
  fields: FieldName[];
  version: number;
  record?: FenceRecord | undefined;
}): RejectingCollection[] {
  return [...live].flatMap(([collection, options]) => {
    const paths = fields
      .filter((field) => field.collection === collection && rejects(options, field.path, version))
      .map((field) => field.path);
    if (paths.length === 0) return [];
    const own = ownOptions(
      options,
      record?.collections.find((entry) => entry.collection === collection),
    );
    return [{ collection, paths, remedy: removalCommand(database, collection, own) }];
  });
}

/**
 * That MongoDB rejects the version that is written now, in words: pure.
 * @param rejecting at least one.
 * @param recorded whether there is a rotation, whose record processes bring the validators in line with.
 */
export function rejectionText(
  version: number,
  rejecting: RejectingCollection[],
  recorded: boolean,
): { message: string; hint: string } {
  const names = rejecting.map(({ collection }) => collection).join(", ");
  const commands = rejecting.map(({ remedy }) => remedy).join("; ");
  return {
    message: `MongoDB rejects KEK version ${version} in ${names}, and that is the version that is written now: an older write fence is still in the validator`,
    hint: recorded
      ? `a running process whose MongoDB user has dbAdmin removes it within two leases; if none does, run in mongosh: ${commands}`
      : `the kek_ collections were restored without the rotation that set it, so no process may remove it: check that no newer copy of them is left, then run in mongosh: ${commands}`,
  };
}

/** Fields that the recorded fence does not cover: registered since it was set. Pure. */
export function uncoveredFields(fields: FieldDoc[], record: FenceRecord): FieldDoc[] {
  return fields.filter((field) => {
    if (record.unfenced?.includes(field.collection)) return false;
    const entry = record.collections.find((candidate) => candidate.collection === field.collection);
    const expected = entry === undefined ? undefined : thawOptions(entry.expected);
    return !record.versions.every((version) => fences(expected, [field.path], version));
  });
}

/** Collections in which MongoDB would accept an envelope of this version: a look at the live validators. */
export async function unfencedCollections(store: Store, fields: FieldDoc[], version: number): Promise<string[]> {
  const names = [...new Set(fields.map((field) => field.collection))];
  const live = await readValidators(store, names);
  return names.filter((name) => {
    const paths = fields.filter((field) => field.collection === name).map((field) => field.path);
    return !fences(live.get(name), paths, version);
  });
}

// ---------------------------------------------------------------------------------------------------------------------

/**
 * A collection's own rules: as recorded while what stands there, our clause aside, is what was recorded; else what stands
 * there now. So rules that were laid aside are not forgotten, and a change by the operator is kept.
 */
function ownOptions(live: ValidatorOptions, recorded: FencedCollection | undefined): ValidatorOptions {
  const validator = withoutWriteFence(live.validator);
  if (recorded !== undefined) {
    // Our clause alone: rules that rejected nothing were laid aside, and only the record knows them.
    const own = thawOptions(recorded.own);
    const laidAside = own.validationLevel === "off" || own.validationAction === "warn";
    if (laidAside && validator === undefined && writeFenceIn(live.validator) !== undefined) return own;
    const expected = withoutWriteFence(thawOptions(recorded.expected).validator);
    if (sameOptions({ validator: validator ?? {} }, { validator: expected ?? {} })) return thawOptions(recorded.own);
  }
  if (validator === live.validator) return live;
  return validator === undefined ? {} : { ...live, validator };
}

function unfencedNames({ unfenced }: WriteFenceOutcome): { unfenced?: string[] } {
  return unfenced.length === 0 ? {} : { unfenced: unfenced.map((entry) => entry.collection) };
}

async function merged(
  store: Store,
  name: string,
  own: ValidatorOptions,
  clause: Clause,
): Promise<ValidatorOptions | undefined> {
  const moderate = own.validationLevel === "moderate" && own.validator !== undefined;
  return withWriteFence(own, clause, moderate ? await countViolations(store, name, own.validator ?? {}) : 0);
}

// ---------------------------------------------------------------------------------------------------------------------

/** By code, not by class: the application may bring a driver of its own. The collection's own rules are not ours. */
export function isFenceRejection(thrown: unknown): boolean {
  return details(thrown).some((detail) => mentions(detail, ".kek_version"));
}

/** The KEK versions of the envelopes that the fence rejected, as MongoDB's answer has them. It leaves out what would be too long. */
export function versionsRejected(thrown: unknown): number[] {
  const found = new Set<number>();
  const visit = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    const { specifiedAs, consideredValue } = value as { specifiedAs?: unknown; consideredValue?: unknown };
    if (consideredValue !== undefined && Object.keys(specifiedAs ?? {}).some((key) => key.endsWith(".kek_version")))
      found.add(Number(consideredValue));
    for (const inner of Object.values(value)) visit(inner);
  };
  for (const detail of details(thrown)) visit(detail);
  return [...found].filter(Number.isInteger);
}

// ---------------------------------------------------------------------------------------------------------------------

/** Why MongoDB rejected it: of one write, or of each of several. */
function details(thrown: unknown): unknown[] {
  if (typeof thrown !== "object" || thrown === null) return [];
  const { code, errInfo, writeErrors } = thrown as { code?: unknown; errInfo?: unknown; writeErrors?: unknown };
  if (code !== DOCUMENT_VALIDATION_FAILURE) return [];
  const inBulk = (Array.isArray(writeErrors) ? writeErrors : [writeErrors]).map(
    (error) => error?.errInfo ?? error?.err?.errInfo,
  );
  return [errInfo, ...inBulk];
}

function mentions(detail: unknown, name: string): boolean {
  // An _id in errInfo may be a BigInt, which JSON does not know.
  const text = JSON.stringify(detail, (_key, value) => (typeof value === "bigint" ? String(value) : value));
  return text?.includes(name) === true;
}
