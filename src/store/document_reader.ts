import { EJSON } from "bson";
import * as v from "valibot";
import type { AuditEntry } from "../audit/chain.ts";
import { KekError } from "../errors/errors.ts";
import type {
  Claim,
  FieldDoc,
  HeartbeatDoc,
  ImportDoc,
  InstallDoc,
  LoginDoc,
  RotationDoc,
  VersionDoc,
} from "../protocol/documents.ts";
import {
  AUDIT_ENTRY,
  CLAIM,
  FIELD,
  HEARTBEAT,
  IMPORT,
  INSTALL,
  LOGIN,
  ROTATION,
  ROTATION_PLACE,
  VERSION,
} from "./document_schemas.ts";

/**
 * What a stored document must look like before anything is decided by it. Members that are not named here pass: a later
 * release may add some. A word or number from outside its list, or a `format` above 1, was written by a later release.
 */

/** @returns the very document that was given: a member that is unknown here stays in it. @throws KekError, see `readAs`. */
export const installOf = (doc: unknown): InstallDoc => readAs("kek_install", INSTALL, doc);
export const versionOf = (doc: unknown): VersionDoc => readAs("kek_versions", VERSION, doc);
export const fieldOf = (doc: unknown): FieldDoc => readAs("kek_fields", FIELD, doc);
export const rotationOf = (doc: unknown): RotationDoc => readAs("kek_rotations", ROTATION, doc);
export const rotationPlaceOf = (doc: unknown): Pick<RotationDoc, "_id" | "epoch"> =>
  readAs("kek_rotations", ROTATION_PLACE, doc);
export const claimOf = (doc: unknown): Claim => readAs("kek_claims", CLAIM, doc);
export const loginOf = (doc: unknown): LoginDoc => readAs("kek_logins", LOGIN, doc);
export const importOf = (doc: unknown): ImportDoc => readAs("kek_imports", IMPORT, doc);
export const auditEntryOf = (doc: unknown): AuditEntry => readAs("audit_log", AUDIT_ENTRY, doc);
export const heartbeatOf = (doc: unknown): HeartbeatDoc => readAs("process_heartbeats", HEARTBEAT, doc);

/** What this program keeps in the install's database. */
export type OwnCollection = keyof typeof MENDING;

/**
 * What is wrong with what is stored, and nothing can be decided by it.
 * @param what begins with the document or the member that is wrong.
 */
export function unreadable(collection: OwnCollection, what: string): KekError {
  return new KekError("document_invalid", `${collection}: ${what}`, MENDING[collection]);
}

// ---------------------------------------------------------------------------------------------------------------------

const FROM_BACKUP =
  "nothing is decided by it; put the document right, or restore the install's collections from a backup";

const MENDING = {
  kek_install: FROM_BACKUP,
  kek_versions: FROM_BACKUP,
  kek_rotations: FROM_BACKUP,
  kek_fields: "nothing is decided by it; put the document right, or delete it if no field of that name holds envelopes",
  kek_claims: "nothing is decided by it; if no pkcs11-init runs anywhere, delete the document and run it again",
  kek_logins: "nothing is decided by it; delete the document: the PIN of each process is then tried once",
  kek_imports: "nothing is decided by it; import into a fresh install again, and leave this database alone",
  process_heartbeats:
    "nothing is decided by it; delete the document: the process that it is of, if it lives, joins again",
  audit_log: "nothing is decided by it; keep this database as evidence, then: certautopilot audit verify",
};

/**
 * @throws KekError `document_invalid`, naming collection, document and member; `unsupported_format` when a later release wrote it.
 */
function readAs<T>(collection: OwnCollection, schema: v.GenericSchema, doc: unknown): T {
  const found = v.safeParse(schema, doc, { abortEarly: true });
  if (found.success) return doc as T;
  const [issue] = found.issues;
  const which = named(doc);
  const path = v.getDotPath(issue);
  const value = issue.path?.at(-1)?.value;
  if (issue.type === "picklist") {
    throw new KekError(
      "unsupported_format",
      `${collection}: ${which}: its ${path} is ${short(JSON.stringify(value))}, which this release does not know: a newer one wrote it`,
      "nothing is decided by it; update this program (certautopilot --version tells which it is), then run it again",
    );
  }
  const missing = path !== null && value === undefined;
  const what = missing ? `it has no ${path}` : path === null ? issue.message : `its ${path} ${issue.message}`;
  throw unreadable(collection, `${which}: ${what}`);
}

/** How a document is named to people, whatever it is called by: its seq in the audit log, else its _id. */
function named(doc: unknown): string {
  const { _id, seq } = (doc ?? {}) as { _id?: unknown; seq?: unknown };
  return `document ${short(EJSON.stringify(seq ?? _id ?? null))}`;
}

function short(shown: string): string {
  const MOST = 80;
  return shown.length > MOST ? `${shown.slice(0, MOST)}…` : shown;
}
