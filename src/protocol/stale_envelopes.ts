import type { RotationDoc, VersionDoc } from "./documents.ts";
import { isOpen } from "./phases.ts";
import type { Problem } from "./problem.ts";
import { isVersion, NO_VERSION, type VersionCount } from "./version_count.ts";

/** Envelopes at a version that no open rotation is leaving and that is not the active one. Pure. */

type Versions = Pick<VersionDoc, "_id" | "state">[];

export interface StaleVersion {
  /** `<collection>:<path>` */
  field: string;
  version: number;
  count: number;
}

/**
 * @param to what `rotate --to-version` moves them to.
 * Protocol: "Stale envelopes". Model: left out.
 */
export function staleEnvelopeProblems({
  versionCounts,
  versions,
  from,
  to,
  home = to,
}: {
  versionCounts: VersionCount[];
  versions: Versions;
  from: number;
  to: number;
  home?: number | undefined;
}): Problem[] {
  const expected = from === to ? `not ${to}` : `neither ${from} nor ${to}`;
  return versionCounts
    .filter((row) => row.version !== String(from) && row.version !== String(to))
    .map((row) => ({
      code: "stale_envelope" as const,
      message:
        row.version === NO_VERSION
          ? `${row.count === 1 ? "1 value" : `${row.count} values`} of ${row.field} ${row.count === 1 ? "has" : "have"} no kek_version: plaintext, or a damaged envelope`
          : `${row.count === 1 ? "1 envelope" : `${row.count} envelopes`} of ${row.field} ${row.count === 1 ? "is" : "are"} at version ${row.version}, which is ${expected}`,
      hint: repairHint(row, versions, home),
    }));
}

/**
 * What repairs values at no version that there could be. `kek verify --records` tells plaintext from damaged envelopes.
 * Protocol: "Stale envelopes". Model: left out.
 */
export function repairOf(row: VersionCount): string {
  return row.version === NO_VERSION
    ? `certautopilot kek verify --records names them. Where it is plaintext, ${WRITE_AGAIN}; for a damaged envelope, ${RESTORE}`
    : `these envelopes are damaged: find them by that kek_version. For each, ${RESTORE}`;
}

/**
 * Those that a rotation can bring back: their version has been left, and its key is there.
 * Protocol: "Stale envelopes". Model: left out.
 */
export function repairableVersions(
  versionCounts: VersionCount[],
  { versions, rotation }: { versions: Versions; rotation: RotationDoc | undefined },
): StaleVersion[] {
  const expected = rotation !== undefined && isOpen(rotation) ? [rotation.from, rotation.to] : [];
  return versions
    .filter(({ _id, state }) => state === "retired" && !expected.includes(_id))
    .flatMap(({ _id }) => versionCounts.filter((row) => row.version === String(_id)))
    .map(({ field, version, count }) => ({ field, version: Number(version), count }));
}

// ---------------------------------------------------------------------------------------------------------------------

function repairHint(row: VersionCount, versions: Versions, home: number): string {
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

/** What repairs a field that holds plaintext. */
export const WRITE_AGAIN = "write the value again through the library or the API, which encrypt it";

/** What repairs a field whose envelope was damaged. */
export const RESTORE = "restore the field from a backup, or write the value again through the library or the API";
