import { MongoError, MongoNetworkError, MongoServerError, MongoServerSelectionError } from "mongodb";
import { KekError } from "../errors/errors.ts";
import { describeMembers, isNotInitiated, notInitiated } from "./topology.ts";

/** Turns what the driver throws into what an operator can act on. */

/** The hosts of a URI, without user, password or options. */
export function hostsOf(uri: string): string {
  return /^mongodb(?:\+srv)?:\/\/(?:[^@/]*@)?([^/?]+)/.exec(uri)?.[1] ?? "the given URI";
}

/** A document validator said no: the fence, or the collection's own. */
export const DOCUMENT_VALIDATION_FAILURE = 121;

export function serverCode(thrown: unknown): number | undefined {
  return thrown instanceof MongoServerError && typeof thrown.code === "number" ? thrown.code : undefined;
}

export function isDuplicateKey(thrown: unknown): boolean {
  return serverCode(thrown) === 11_000;
}

export function isNamespaceExists(thrown: unknown): boolean {
  return serverCode(thrown) === 48;
}

/** A collection was made or indexed since the moment asked for, or that moment is too long ago. */
export function isSnapshotGone(thrown: unknown): boolean {
  return [246, 239].includes(serverCode(thrown) ?? 0);
}

/** Cursor gone, time limit of an operation reached, cursor killed: what was asked for may be asked for again. */
const OVERTAKEN = new Set([43, 50, 237, 262]);

/**
 * The primary steps down or shuts down, or a majority is late. The driver labels these only for what it tries again itself:
 * never a command that is sent as one (MongoDB's error codes; Retryable Writes specification, "Determining Retryable Errors").
 */
const BETWEEN_PRIMARIES = new Set([64, 91, 189, 10_107, 11_600, 11_602, 13_435, 13_436]);

/** Whether MongoDB was out of reach, or in the middle of an election: worth another try. */
export function isTransient(thrown: unknown): boolean {
  if (thrown instanceof KekError) return thrown.code === "mongodb_unavailable";
  if (thrown instanceof MongoNetworkError || thrown instanceof MongoServerSelectionError) return true;
  // Whoever has one connection waits for the answers to all that was asked before. The driver does not export the class.
  if (thrown instanceof MongoError && thrown.name === "MongoWaitQueueTimeoutError") return true;
  const code = serverCode(thrown) ?? 0;
  if (OVERTAKEN.has(code) || BETWEEN_PRIMARIES.has(code)) return true;
  return (
    thrown instanceof MongoError &&
    (thrown.hasErrorLabel("RetryableWriteError") ||
      thrown.hasErrorLabel("TransientTransactionError") ||
      thrown.hasErrorLabel("RetryableError"))
  );
}

const UNAUTHORIZED = 13;
const AUTHENTICATION_FAILED = 18;

/** @returns undefined when the thrown thing is not MongoDB's. */
export function explainMongo(thrown: unknown, uri: string): KekError | undefined {
  if (thrown instanceof KekError) return thrown;
  const hosts = hostsOf(uri);
  const code = serverCode(thrown);
  if (code === AUTHENTICATION_FAILED || (code === 8000 && /auth/i.test(String(thrown)))) {
    return new KekError(
      "mongodb_refused",
      `MongoDB at ${hosts} does not accept the user or password of CERTAUTOPILOT_DATABASE_URI`,
      "check user, password and authSource in the URI",
      { cause: thrown },
    );
  }
  if (code === UNAUTHORIZED) {
    return new KekError(
      "mongodb_refused",
      `MongoDB at ${hosts} does not permit this to the user of CERTAUTOPILOT_DATABASE_URI: ${firstLine(thrown).replace(/ to execute command .*/, "")}`,
      "check the database in CERTAUTOPILOT_DATABASE_NAME, and grant the user readWrite and dbAdmin on it",
      { cause: thrown },
    );
  }
  const members = thrown instanceof MongoServerSelectionError ? thrown.reason : undefined;
  if (members !== undefined && isNotInitiated(members)) return notInitiated(hosts);
  const lookup = /^query/.test(String((thrown as { syscall?: unknown } | undefined)?.syscall));
  if (thrown instanceof MongoServerSelectionError || thrown instanceof MongoNetworkError || lookup) {
    return new KekError(
      "mongodb_unavailable",
      `MongoDB at ${hosts} cannot be reached, or has no primary: ${[firstLine(thrown), members && describeMembers(members)].filter(Boolean).join("; ")}`,
      "check that mongod runs, that the host and port of CERTAUTOPILOT_DATABASE_URI are right, and the replicaSet name in it",
      { cause: thrown },
    );
  }
  if (thrown instanceof Error && /^Mongo(Parse|InvalidArgument|Topology)/.test(thrown.name)) {
    return new KekError(
      "config_invalid",
      "CERTAUTOPILOT_DATABASE_URI is not a MongoDB URI",
      "write it as mongodb://user:password@host:27017/?replicaSet=rs0",
    );
  }
  if (thrown instanceof MongoError) {
    return new KekError(
      "mongodb_refused",
      `MongoDB at ${hosts} refused: ${firstLine(thrown)}`,
      "see MongoDB's log; the same command may be run again",
      { cause: thrown },
    );
  }
  return undefined;
}

// ---------------------------------------------------------------------------------------------------------------------

function firstLine(thrown: unknown): string {
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  return (text.split("\n")[0] ?? "").replace(/mongodb(\+srv)?:\/\/\S*/g, "mongodb://…");
}
