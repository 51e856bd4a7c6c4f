import { RESTORE, WRITE_AGAIN } from "../envelope/not_envelope.ts";
import type { Problem } from "../fleet/readiness.ts";
import { type CensusRow, isVersion, NO_VERSION } from "../store/census.ts";
import type { RotationDoc, VersionDoc } from "../store/documents.ts";
import { isOpen } from "../store/state_rules.ts";

/** Envelopes at a version that no open rotation is leaving and that is not the active one. Pure. */

type Versions = Pick<VersionDoc, "_id" | "state">[];

export interface StrayVersion {
  /** `<collection>:<path>` */
  field: string;
  version: number;
  count: number;
}

/** @param to what `rotate --to-version` moves them to. */
export function strayProblems(census: CensusRow[], versions: Versions, from: number, to: number, home = to): Problem[] {
  const expected = from === to ? `not ${to}` : `neither ${from} nor ${to}`;
  return census
    .filter((row) => row.version !== String(from) && row.version !== String(to))
    .map((row) => ({
      code: "stray" as const,
      message:
        row.version === NO_VERSION
          ? `${row.count === 1 ? "1 value" : `${row.count} values`} of ${row.field} ${row.count === 1 ? "has" : "have"} no kek_version: plaintext, or a damaged envelope`
          : `${row.count === 1 ? "1 envelope" : `${row.count} envelopes`} of ${row.field} ${row.count === 1 ? "is" : "are"} at version ${row.version}, which is ${expected}`,
      hint: wayHome(row, versions, home),
    }));
}

/** What repairs values at no version that there could be. `kek verify --records` tells plaintext from damaged envelopes. */
export function repairOf(row: CensusRow): string {
  return row.version === NO_VERSION
    ? `certautopilot kek verify --records names them. Where it is plaintext, ${WRITE_AGAIN}; for a damaged envelope, ${RESTORE}`
    : `these envelopes are damaged: find them by that kek_version. For each, ${RESTORE}`;
}

/** Those that a rotation can bring back: their version has been left, and its key is there. */
export function movableStrays(
  census: CensusRow[],
  { versions, rotation }: { versions: Versions; rotation: RotationDoc | undefined },
): StrayVersion[] {
  const expected = rotation !== undefined && isOpen(rotation) ? [rotation.from, rotation.to] : [];
  return versions
    .filter(({ _id, state }) => state === "retired" && !expected.includes(_id))
    .flatMap(({ _id }) => census.filter((row) => row.version === String(_id)))
    .map(({ field, version, count }) => ({ field, version: Number(version), count }));
}

// ---------------------------------------------------------------------------------------------------------------------

function wayHome(row: CensusRow, versions: Versions, home: number): string {
  if (!isVersion(row)) return repairOf(row);
  switch (versions.find((version) => String(version._id) === row.version)?.state) {
    case "retired":
      return `move them to version ${home}: certautopilot kek rotate --to-version=${home}`;
    case "staged":
      return `their version was never active: rotate to it, and the rest follows: certautopilot kek rotate --to-version=${row.version}`;
    case "active":
      return `they are at the active version: certautopilot kek status`;
    default:
      return `no key of version ${row.version} is left, or it never was one of this install: restore these fields from a backup`;
  }
}
