import { DOCUMENT_VALIDATION_FAILURE } from "../store/failures.ts";

/** By code, not by class: the application may bring a driver of its own. The collection's own rules are not ours. */
export function isFenceRejection(thrown: unknown): boolean {
  if (typeof thrown !== "object" || thrown === null) return false;
  const { code, errInfo, writeErrors } = thrown as { code?: unknown; errInfo?: unknown; writeErrors?: unknown };
  if (code !== DOCUMENT_VALIDATION_FAILURE) return false;
  const inBulk = (Array.isArray(writeErrors) ? writeErrors : [writeErrors]).map(
    (error) => error?.errInfo ?? error?.err?.errInfo,
  );
  // An _id in errInfo may be a BigInt, which JSON does not know.
  const text = JSON.stringify([errInfo, ...inBulk], (_key, value) =>
    typeof value === "bigint" ? String(value) : value,
  );
  return text.includes(".kek_version");
}
