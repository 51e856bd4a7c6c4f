import { type Clause, fenceClause, fences, mergeFence, stripFence } from "../fleet/fence.ts";
import type { FencedCollection, FenceRecord, FieldDoc, ValidatorOptions } from "../store/documents.ts";
import {
  countViolations,
  freezeOptions,
  readValidators,
  sameOptions,
  setValidator,
  thawOptions,
} from "../store/validators.ts";
import type { Context } from "./context.ts";

/** Sets and lifts the fence: first the record of what is to be, then the collections, then a look at what is. */

export interface FenceOutcome {
  /** Collections that could not be fenced, with the reason in words. */
  unfenced: string[];
}

/** Writes the record on condition that the caller still may; false stops everything. */
export type RecordFence = (fence: FenceRecord) => Promise<boolean>;

/**
 * @param versions the versions that MongoDB is to reject; none lifts the fence and restores every collection's own rules.
 * @returns undefined when the record was refused.
 */
export async function setFence(
  context: Context,
  fields: FieldDoc[],
  before: FenceRecord,
  versions: number[],
  record: RecordFence,
): Promise<FenceOutcome | undefined> {
  const { store } = context;
  const names = [
    ...new Set([...fields.map((field) => field.collection), ...before.collections.map((entry) => entry.collection)]),
  ];
  const live = await readValidators(store, names);
  const outcome: FenceOutcome = { unfenced: [] };
  const collections: FencedCollection[] = [];
  for (const name of names) {
    const options = live.get(name);
    if (options === undefined) continue;
    const paths = fields.filter((field) => field.collection === name).map((field) => field.path);
    const own = ownOptions(
      options,
      before.collections.find((entry) => entry.collection === name),
    );
    const clause = versions.length === 0 || paths.length === 0 ? undefined : fenceClause(paths, versions);
    const expected = clause === undefined ? own : await merged(context, name, own, clause);
    if (expected === undefined) outcome.unfenced.push(`${name} (documents break its moderate validator)`);
    collections.push({ collection: name, own: freezeOptions(own), expected: freezeOptions(expected ?? own) });
  }
  if (!(await record({ versions, collections }))) return undefined;
  for (const entry of collections) {
    const expected = thawOptions(entry.expected);
    if (sameOptions(live.get(entry.collection) ?? {}, expected)) continue;
    if ((await setValidator(store, entry.collection, expected)) === "refused") {
      outcome.unfenced.push(`${entry.collection} (MongoDB does not permit collMod)`);
    }
  }
  return outcome;
}

/** Collections in which MongoDB would accept an envelope of this version: a look at the live validators. */
export async function unfencedCollections(context: Context, fields: FieldDoc[], version: number): Promise<string[]> {
  const names = [...new Set(fields.map((field) => field.collection))];
  const live = await readValidators(context.store, names);
  return names.filter((name) => {
    const paths = fields.filter((field) => field.collection === name).map((field) => field.path);
    return !fences(live.get(name), paths, version);
  });
}

// ---------------------------------------------------------------------------------------------------------------------

/** A collection's own rules: as recorded while our fence is what stands there, else what stands there without our clause. */
function ownOptions(live: ValidatorOptions, recorded: FencedCollection | undefined): ValidatorOptions {
  if (recorded !== undefined && sameOptions(live, thawOptions(recorded.expected))) return thawOptions(recorded.own);
  const validator = stripFence(live.validator as Clause | undefined);
  const { validator: _merged, ...rest } = live;
  return validator === undefined ? (live.validator === undefined ? rest : {}) : { ...rest, validator };
}

async function merged(
  context: Context,
  name: string,
  own: ValidatorOptions,
  clause: Clause,
): Promise<ValidatorOptions | undefined> {
  const moderate = own.validationLevel === "moderate" && own.validator !== undefined;
  return mergeFence(own, clause, moderate ? await countViolations(context.store, name, own.validator ?? {}) : 0);
}
