import type { RotationDoc, VersionDoc } from "./documents.ts";
import { isOpen } from "./phases.ts";

/** What versions and rotations must be to each other: pure. A state that breaks it was restored by halves, or forged. */

type Versions = Pick<VersionDoc, "_id" | "state">[];
type Rotation = Pick<RotationDoc, "_id" | "from" | "to" | "phase" | "state" | "repairs">;

/**
 * @param rotation the newest one.
 * @returns what contradicts what, in words; undefined when everything agrees.
 * Protocol: "The guards". Model: left out.
 */
export function contradiction(versions: Versions, rotation: Rotation | undefined): string | undefined {
  const active = versions.filter(({ state }) => state === "active").map(({ _id }) => _id);
  if (active.length > 1) return `versions ${active.join(" and ")} are active, and at most one may be`;
  const [only] = active;
  const used = versions.find(({ state }) => state !== "staged");
  if (only === undefined && used !== undefined) return `no version is active, and version ${used._id} is ${used.state}`;
  if (rotation === undefined) return undefined;
  const { _id, from, to, state } = rotation;
  const which = `rotation ${_id} of kek_rotations (${from} → ${to}, ${state})`;
  if (isOpen(rotation)) {
    for (const version of [from, to]) {
      const doc = versions.find((entry) => entry._id === version);
      if (doc === undefined) return `${which} is open, and there is no version ${version}`;
      if (doc.state === "destroyed") return `${which} is open, and version ${version} is destroyed`;
    }
    return only === from || only === to ? undefined : `${which} is open, and version ${only ?? "none"} is active`;
  }
  if (state === "reverted") return `${which} is the newest one, and the rotation that reverted it is gone`;
  const expected = state === "completed" || rotation.repairs === true ? to : from;
  return only === expected ? undefined : `${which} has ended, and version ${only ?? "none"} is active`;
}
