import { KekError } from "../errors/errors.ts";

/** The order of releases. Pure. */

/** Whether the first of two versions comes before the second; what follows a hyphen comes before the release itself. */
export function older(one: string, two: string): boolean {
  const parts = (version: string) => /^(\d+)\.(\d+)\.(\d+)(-.*)?$/.exec(version)?.slice(1) ?? [];
  const [a, b] = [parts(one), parts(two)];
  for (let at = 0; at < 3; at += 1) if (a[at] !== b[at]) return Number(a[at]) < Number(b[at]);
  return a[3] !== b[3] && (a[3] === undefined ? false : b[3] === undefined || a[3] < b[3]);
}

/**
 * @param installed undefined where it is not known.
 * @throws KekError `refused`.
 */
export function refuseDowngrade(installed: string | undefined, wanted: string): void {
  if (installed === undefined || !older(wanted, installed)) return;
  throw new KekError(
    "refused",
    `${wanted} is older than ${installed}, which is installed: it may not know what the newer one has stored`,
    `name ${installed} or a newer release with --version; or read the notes of both releases, then add --allow-downgrade`,
  );
}
