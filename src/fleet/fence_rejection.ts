import { DOCUMENT_VALIDATION_FAILURE } from "../store/mongodb_errors.ts";

/** By code, not by class: the application may bring a driver of its own. The collection's own rules are not ours. */
export function isFenceRejection(thrown: unknown): boolean {
  return details(thrown).some((detail) => mentions(detail, ".kek_version"));
}

/** The KEK versions of the envelopes that the fence rejected, as MongoDB's answer has them. It leaves out what would be too long. */
export function versionsRejected(thrown: unknown): number[] {
  const found = new Set<number>();
  const visit = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return;
    const { specifiedAs, consideredValue } = value as { specifiedAs?: unknown; consideredValue?: unknown };
    if (consideredValue !== undefined && Object.keys(specifiedAs ?? {}).some((key) => key.endsWith(".kek_version")))
      found.add(Number(consideredValue));
    for (const inner of Object.values(value)) visit(inner);
  };
  for (const detail of details(thrown)) visit(detail);
  return [...found].filter(Number.isInteger);
}

// ---------------------------------------------------------------------------------------------------------------------

/** Why MongoDB rejected it: of one write, or of each of several. */
function details(thrown: unknown): unknown[] {
  if (typeof thrown !== "object" || thrown === null) return [];
  const { code, errInfo, writeErrors } = thrown as { code?: unknown; errInfo?: unknown; writeErrors?: unknown };
  if (code !== DOCUMENT_VALIDATION_FAILURE) return [];
  const inBulk = (Array.isArray(writeErrors) ? writeErrors : [writeErrors]).map(
    (error) => error?.errInfo ?? error?.err?.errInfo,
  );
  return [errInfo, ...inBulk];
}

function mentions(detail: unknown, name: string): boolean {
  // An _id in errInfo may be a BigInt, which JSON does not know.
  const text = JSON.stringify(detail, (_key, value) => (typeof value === "bigint" ? String(value) : value));
  return text?.includes(name) === true;
}
