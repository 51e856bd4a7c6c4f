import type { Phase, RotationDoc, VersionDoc } from "./documents.ts";
import { isOpen } from "./phases.ts";

/** What a process must hold and write, from the state alone: the table of docs/protocol.md, "The phases", as a pure function. */

export interface KeyPolicy {
  /** The rotation that is followed, or null in the steady state. */
  rotation: number | null;
  epoch: number;
  phase: 0 | Phase;
  /** Versions whose envelopes this process must be able to open. */
  readable: number[];
  /** The one version under which new DEKs are wrapped. */
  write: number;
  /** The version given up in phase 3, even while its document does not say so yet. */
  leaving: number | undefined;
}

type Versions = Pick<VersionDoc, "_id" | "state">[];
type Rotation = Pick<RotationDoc, "_id" | "from" | "to" | "phase" | "epoch" | "state" | "repairs">;

/**
 * @returns undefined while no version is active: an install that has not begun.
 * Protocol: "The phases". Model: may_hold, writes.
 */
export function keyPolicyOf(versions: Versions, rotation: Rotation | undefined): KeyPolicy | undefined {
  if (rotation !== undefined && isOpen(rotation)) return follow(rotation);
  const active = versions.find((version) => version.state === "active");
  if (active === undefined) return undefined;
  return {
    rotation: rotation?._id ?? null,
    epoch: rotation?.epoch ?? 0,
    phase: 0,
    readable: [active._id],
    write: active._id,
    leaving: undefined,
  };
}

/**
 * The epoch grows with every change, so what comes after a key policy has a higher one, or is the same key policy.
 * @returns what went backwards, in words; undefined when the new one may be followed.
 * Protocol: "The guards". Model: left out.
 */
export function rollbackIn(before: KeyPolicy | undefined, after: KeyPolicy): string | undefined {
  if (before === undefined) return undefined;
  if (after.epoch < before.epoch) return `its epoch went back from ${before.epoch} to ${after.epoch}`;
  const [was, is] = [before, after].map(({ rotation, phase, readable, write }) =>
    JSON.stringify([rotation, phase, readable, write]),
  );
  if (after.epoch > before.epoch || was === is) return undefined;
  return `it changed while its epoch stayed ${after.epoch}`;
}

/**
 * Versions that a process may keep in memory under a key policy: those it must read, and those staged for later.
 * Protocol: "The phases". Model: may_hold.
 */
export function versionsToHold(policy: KeyPolicy, versions: Versions): number[] {
  const staged = versions.filter((version) => version.state === "staged").map((version) => version._id);
  return [...new Set([...policy.readable, ...staged])]
    .filter((version) => version !== policy.leaving)
    .sort((a, b) => a - b);
}

// ---------------------------------------------------------------------------------------------------------------------

function follow({ _id, epoch, from, to, phase }: Rotation): KeyPolicy {
  const common = { rotation: _id, epoch, phase };
  switch (phase) {
    case 1:
      return { ...common, readable: [from, to], write: from, leaving: undefined };
    case 2:
      return { ...common, readable: [from, to], write: to, leaving: undefined };
    case 3:
      return { ...common, readable: [to], write: to, leaving: from };
  }
}
