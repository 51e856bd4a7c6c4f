/** Version counts: how many envelopes each field holds at each version. */

export interface VersionCount {
  /** `<collection>:<path>` */
  field: string;
  /** As text: a foreign writer may have stored something that is no int32, and that must show. */
  version: string;
  count: number;
}

/** What stands for envelopes that name no version at all. */
export const NO_VERSION = "none";

/**
 * Whether a row of the version counts is at a version, as opposed to something that only looks like one.
 * Protocol: "What decides: the records". Model: at_version.
 */
export function isVersion(row: VersionCount): boolean {
  return /^[1-9]\d*$/.test(row.version);
}
