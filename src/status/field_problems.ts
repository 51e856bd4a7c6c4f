import { rejectingCollections, rejectionText } from "../fleet/write_fence_setter.ts";
import type { FieldCount, RotationDoc } from "../protocol/documents.ts";
import type { Problem } from "../protocol/problem.ts";
import type { VersionCount } from "../protocol/version_count.ts";
import { fences } from "../protocol/write_fence.ts";
import { collectionFault } from "../store/collections.ts";
import type { FieldFact, FieldFacts } from "../store/field_facts.ts";
import { positionIn } from "../store/field_names.ts";
import { fieldId } from "../store/fields.ts";

/** What stands between a rotation and every envelope of every field: pure. */

/** What no rotation can do its work with: a count that could be too small, records that it could not rewrap. */
export function fieldProblems({ fields, unregistered }: FieldFacts): Problem[] {
  return [...fields.flatMap(problemsOf), ...unregistered.map(unregisteredProblem)];
}

/**
 * Fields that had envelopes in the newest rotation and have none: renamed, dropped, or emptied by the application. No record says
 * which, so it is told to people; before a rotation settles, and before a key is destroyed, the whole database is read.
 */
export function emptiedFields(
  facts: FieldFacts,
  versionCounts: VersionCount[],
  newest: RotationDoc | undefined,
): Problem[] {
  return facts.fields.flatMap(({ field, collection }) => {
    const id = fieldId(field);
    const before = newest?.fields.find((row) => row.field === id);
    const had = before === undefined ? 0 : before.done + before.remaining;
    if (had === 0 || versionCounts.some((row) => row.field === id && row.count > 0)) return [];
    const gone = collection === undefined;
    return [
      {
        code: "field" as const,
        message: `${id} had ${had} ${had === 1 ? "envelope" : "envelopes"} in rotation ${newest?._id}, and has none${gone ? ": there is no such collection" : ""}`,
        hint: gone
          ? `if ${field.collection} was renamed, rename it back; if it was dropped on purpose: certautopilot kek field remove ${id}`
          : "if the application did not remove them: certautopilot kek verify --discover  finds envelopes that were moved",
      },
    ];
  });
}

/** Counting such a field reads its whole collection, and it would be missed if the list of fields were lost. */
export function missingIndexes({ fields }: FieldFacts): Problem[] {
  return fields
    .filter(({ index, collection }) => index.state === "absent" && collection?.type === "collection")
    .map(({ field }) => ({
      code: "index",
      message: `${fieldId(field)} has no index over its KEK versions`,
      hint: `make it: certautopilot kek field add ${fieldId(field)}  or with the next rotation`,
    }));
}

/** Collections whose live validators reject what processes write now: `kek_…` was restored without them, or they were changed. */
export function rejectingProblems(
  facts: FieldFacts,
  version: number | undefined,
  newest: RotationDoc | undefined,
): Problem[] {
  if (version === undefined) return [];
  const live = new Map(
    facts.fields.flatMap(({ field, validator }) => (validator === undefined ? [] : [[field.collection, validator]])),
  );
  const fields = facts.fields.map(({ field }) => field);
  const rejecting = rejectingCollections({ database: facts.database, live, fields, version, record: newest?.fence });
  return rejecting.length === 0 ? [] : [{ code: "fence", ...rejectionText(version, rejecting, newest !== undefined) }];
}

/** Collections in which MongoDB would accept an envelope of a version that was left, though the rotation fenced it. */
export function unfencedProblems(facts: FieldFacts, newest: RotationDoc | undefined): Problem[] {
  const { versions = [], unfenced = [] } = newest?.fence ?? {};
  return versions.flatMap((version) => {
    const names = new Set(
      facts.fields
        .filter(
          ({ field, validator, collection }) => collection !== undefined && !fences(validator, [field.path], version),
        )
        .map(({ field }) => field.collection),
    );
    return [...names]
      .filter((name) => !unfenced.includes(name))
      .map((name) => ({
        code: "fence" as const,
        message: `${name} is not fenced against KEK version ${version}`,
        hint: "a running process sets it again by itself within its lease; look at its log if it does not",
      }));
  });
}

/** The rows that a rotation begins with: what was there, so that what is gone at its end is noticed. */
export function firstCounts({ fields }: FieldFacts, versionCounts: VersionCount[], version: number): FieldCount[] {
  return fields.map(({ field: name, collection }) => {
    const field = fieldId(name);
    const row = versionCounts.find((each) => each.field === field && each.version === String(version));
    const counts = { field, done: 0, remaining: row?.count ?? 0, failed: 0 };
    return collection?.uuid === undefined ? counts : { ...counts, uuid: collection.uuid };
  });
}

// ---------------------------------------------------------------------------------------------------------------------

function problemsOf({ field, collection, index, inArray }: FieldFact): Problem[] {
  const id = fieldId(field);
  const unregister = `certautopilot kek field remove ${id}`;
  const fault = collection && collectionFault(collection);
  if (fault !== undefined)
    return [
      {
        code: "field",
        message: `${id} cannot hold envelopes: ${fault}`,
        hint: `keep encrypted values in an ordinary collection, and unregister this field once it holds none: ${unregister}`,
      },
    ];
  if (index.state === "unusable")
    return [
      { code: "index", message: `the index ${index.name} of ${field.collection} ${index.why}`, hint: index.remedy },
    ];
  if (positionIn(field.path) !== undefined)
    return [
      {
        code: "field",
        message: `${id} leads through an array: a rotation cannot rewrap an envelope in it`,
        hint: `move the values to a path without positions, then: ${unregister}`,
      },
    ];
  if (inArray)
    return [
      {
        code: "field",
        message: `${id} leads through an array: a rotation cannot rewrap an envelope in it`,
        hint: `store each of these secrets at a path without arrays: certautopilot kek verify --discover  counts those in arrays`,
      },
    ];
  return [];
}

function unregisteredProblem({ collection, path }: FieldFacts["unregistered"][number]): Problem {
  return {
    code: "unregistered_field",
    message: `${collection}:${path} has an index over KEK versions and is not registered: no rotation sees its envelopes`,
    hint: `certautopilot kek verify --discover  says what they are. If kek_fields was lost: certautopilot kek field add ${collection}:${path}. If ${collection} was renamed: rename it back`,
  };
}
