import type { ValidatorOptions } from "./documents.ts";
import { versionKey } from "./version_path.ts";

/** The fence as pure rules: a validator clause that makes MongoDB reject envelopes of versions that were left. */

/** Marks the clause, so that it is found again among a collection's own rules. */
const MARK = "certautopilot fence";

export type Clause = Record<string, unknown>;

/** Protocol: "The guards". Model: may_land. */
export function writeFenceClause(paths: readonly string[], versions: readonly number[]): Clause {
  return { $comment: MARK, $nor: paths.map((path) => ({ [versionKey(path)]: { $in: versions } })) };
}

/**
 * A collection's own validator, without our clause. The operator may have edited it since: what is beside our clause stays.
 * Protocol: "The guards". Model: set_fence.
 */
export function withoutWriteFence(validator: Clause | undefined): Clause | undefined {
  if (validator === undefined) return undefined;
  if (isFence(validator)) {
    const { $comment: _mark, $nor: _clause, ...beside } = validator;
    return undefinedIfEmpty(beside);
  }
  const { $and: parts, ...beside } = validator;
  if (!Array.isArray(parts) || !parts.some(isFence)) return validator;
  const own = parts.filter((part) => !isFence(part)) as Clause[];
  // MongoDB accepts no empty $and.
  if (own.length === 0) return undefinedIfEmpty(beside);
  return own.length === 1 && undefinedIfEmpty(beside) === undefined ? own[0] : { ...validator, $and: own };
}

/**
 * Our clause in a validator, if it is there.
 * Protocol: "The guards". Model: set_fence.
 */
export function writeFenceIn(validator: Clause | undefined): Clause | undefined {
  if (validator === undefined) return undefined;
  if (isFence(validator)) return validator;
  const parts: unknown = validator["$and"];
  return Array.isArray(parts) ? parts.find(isFence) : undefined;
}

/**
 * Whether what stands there rejects what it should: the collection's own rules are its owner's, and not compared.
 * Protocol: "The guards". Model: fence_recorded.
 */
export function writeFenceDrifted(live: ValidatorOptions, expected: ValidatorOptions): boolean {
  const [have, want] = [writeFenceIn(live.validator), writeFenceIn(expected.validator)];
  if (want === undefined) return have !== undefined;
  return !isEnforced(live) || JSON.stringify(have ?? null) !== JSON.stringify(want);
}

/**
 * Whether our clause in a live validator rejects a version at a path, for some writes at least: rules at level moderate let
 * only documents through that break them already.
 * Protocol: "The guards". Model: may_land.
 */
export function rejects(options: ValidatorOptions | undefined, path: string, version: number): boolean {
  if (options === undefined || options.validationLevel === "off" || options.validationAction === "warn") return false;
  return rejectedVersions(options.validator, path).includes(version);
}

/**
 * Whether our clause in a live validator names a version besides these, at whatever path.
 * Protocol: "The guards". Model: fence_recorded.
 */
export function namesOthers({ validator }: ValidatorOptions, versions: readonly number[]): boolean {
  return rejectedVersions(validator).some((version) => !versions.includes(version));
}

/**
 * Whether a live validator rejects a version at every one of these paths.
 * Protocol: "The guards". Model: may_land.
 */
export function fences(options: ValidatorOptions | undefined, paths: readonly string[], version: number): boolean {
  if (options?.validator === undefined) return false;
  if (!isEnforced(options)) return false;
  return paths.every((path) => rejectedVersions(options.validator, path).includes(version));
}

/**
 * The settings with the fence in them. Our clause must reject (strict, error) whatever the collection's own rules do:
 * - rules that only warn, or are off, reject nothing today, so they are laid aside until the fence is lifted;
 * - moderate rules spare documents that break them already: merging is the same as long as there is no such document.
 * @param violations how many documents break the collection's own rules; asked for moderate rules only.
 * @returns undefined when the fence cannot be merged without changing what the collection's own rules mean.
 * Protocol: "The guards". Model: set_fence.
 */
export function withWriteFence(
  own: ValidatorOptions,
  clause: Clause,
  violations: number,
): ValidatorOptions | undefined {
  const fenced = (validator: Clause): ValidatorOptions => ({
    validator,
    validationLevel: "strict",
    validationAction: "error",
  });
  const rules = own.validator;
  if (rules === undefined || Object.keys(rules).length === 0) return fenced(clause);
  if (own.validationLevel === "off" || own.validationAction === "warn") return fenced(clause);
  if (own.validationLevel === "moderate" && violations > 0) return undefined;
  return fenced({ $and: [rules, clause] });
}

// ---------------------------------------------------------------------------------------------------------------------

function isEnforced({ validationLevel, validationAction }: ValidatorOptions): boolean {
  return (validationLevel ?? "strict") === "strict" && (validationAction ?? "error") === "error";
}

/** The versions that our clause in a validator names, at one path or at all. */
function rejectedVersions(validator: Clause | undefined, path?: string): number[] {
  const rules = writeFenceIn(validator)?.["$nor"];
  if (!Array.isArray(rules)) return [];
  return rules.flatMap((rule: Record<string, { $in?: unknown[] } | undefined>) =>
    (path === undefined ? Object.values(rule) : [rule[versionKey(path)]]).flatMap((at) => (at?.$in ?? []).map(Number)),
  );
}

function undefinedIfEmpty(validator: Clause): Clause | undefined {
  return Object.keys(validator).length === 0 ? undefined : validator;
}

function isFence(part: unknown): boolean {
  return typeof part === "object" && part !== null && (part as Clause)["$comment"] === MARK;
}
