import type { RotationDoc, VersionDoc } from "./documents.ts";
import { isOpen } from "./phases.ts";
import type { Problem } from "./problem.ts";

/** How many wraps a KEK version has made, held against what NIST SP 800-38D (8.3) allows under one key. Pure. */

type Counted = Pick<VersionDoc, "_id" | "state" | "wraps">;

/** From here on there is half of the room left: time to rotate, no hurry. */
const WARN_WRAPS = 2 ** 31;

/** Protocol: "Wraps under one key". Model: left out. */
export function wrapsLeft({ wraps }: Pick<VersionDoc, "wraps">): number {
  return Math.max(0, MAX_WRAPS - Number(wraps));
}

/**
 * In percent of 2^32, cut to two digits: it says 100 only when nothing is left.
 * Protocol: "Wraps under one key". Model: left out.
 */
export function wrapsPercent({ wraps }: Pick<VersionDoc, "wraps">): number {
  return Math.floor((Number(wraps) / MAX_WRAPS) * 10_000) / 100;
}

/**
 * The versions that new wraps may be made under: those in use, and those to come. A retired one only counts when it is gone back to.
 * Protocol: "Wraps under one key". Model: left out.
 */
export function writable<V extends Counted>(versions: V[], rotation: RotationDoc | undefined): V[] {
  const open = rotation !== undefined && isOpen(rotation) ? [rotation.from, rotation.to] : [];
  return versions.filter(({ _id, state }) => state === "active" || state === "staged" || open.includes(_id));
}

/**
 * Versions with no room left at all: under these `encrypt` is refused.
 * Protocol: "Wraps under one key". Model: left out.
 */
export function wrapProblems(versions: Counted[]): Problem[] {
  return versions
    .filter((version) => wrapsLeft(version) === 0)
    .map(({ _id }) => ({
      code: "wraps",
      message: `KEK version ${_id} has made 2^32 wraps, and makes no more: NIST SP 800-38D (8.3) allows no more under one key`,
      hint: NEXT,
    }));
}

/**
 * Versions that have used half of their room.
 * Protocol: "Wraps under one key". Model: left out.
 */
export function wrapWarnings(versions: Counted[]): Problem[] {
  return versions
    .filter((version) => Number(version.wraps) >= WARN_WRAPS && wrapsLeft(version) > 0)
    .map((version) => ({
      code: "wraps",
      message: `KEK version ${version._id} has made ${version.wraps} wraps, ${wrapsPercent(version)}% of the 2^32 that NIST SP 800-38D (8.3) allows under one key; at 2^32 new ones are refused`,
      hint: NEXT,
    }));
}

const NEXT = "give every process a key of a new version N, then run: certautopilot kek rotate --to-version=N";

/** NIST SP 800-38D, 8.3: with random IVs, one key may encrypt so many times and no more, in all its instances together. */
export const MAX_WRAPS = 2 ** 32;
