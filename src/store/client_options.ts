import type { MongoClientOptions } from "mongodb";
import { uriOption } from "../config/database_uri.ts";

/** The options of the driver that this program sets itself. An option of the object comes before the same one in the URI. */

export interface StoreOptions {
  /** Shown by MongoDB in its logs and currentOp. */
  appName: string;
  /** How long to look for a primary, in milliseconds. */
  selectionMs?: number;
  poolSize?: number;
  /** How long an answer may take, in milliseconds; only where every operation has a limit of its own. */
  socketMs?: number;
}

export const WRITE_CONCERN = { w: "majority", journal: true } as const;

/** A member of the fleet holds a connection for its change signals, and beats while others encrypt. */
const SMALLEST_POOL = 10;
const DEFAULT_POOL = 100;

/**
 * The driver merges the URI's read concern level, journal, wtimeout and read preference tags into the objects given here:
 * `checkUri` refuses those. Everything else below replaces what the URI has.
 */
export function clientOptions(uri: string, { appName, selectionMs, poolSize, socketMs }: StoreOptions) {
  return {
    appName,
    writeConcern: WRITE_CONCERN,
    readConcern: { level: "majority" },
    readPreference: "primary",
    retryWrites: true,
    retryReads: true,
    maxAdaptiveRetries: 2,
    serverSelectionTimeoutMS: selectionMs ?? 5000,
    connectTimeoutMS: 5000,
    heartbeatFrequencyMS: 10_000,
    minHeartbeatFrequencyMS: 500,
    // No limit by default, also where no connection can be made.
    waitQueueTimeoutMS: 20_000,
    socketTimeoutMS: socketMs ?? 0,
    minPoolSize: 0,
    maxPoolSize: poolSize ?? poolSizeOf(uri),
    // How documents are read and written: the driver's defaults, which every file in this folder is written for.
    raw: false,
    promoteLongs: true,
    promoteValues: true,
    promoteBuffers: false,
    useBigInt64: false,
    bsonRegExp: false,
    ignoreUndefined: false,
    serializeFunctions: false,
    checkKeys: false,
    forceServerObjectId: false,
    enableUtf8Validation: true,
  } satisfies MongoClientOptions;
}

// ---------------------------------------------------------------------------------------------------------------------

/** An operator may limit the connections of each process; with too few of them a member waits for itself. Zero: no limit. */
function poolSizeOf(uri: string): number {
  const given = uriOption(uri, "maxPoolSize");
  if (given === undefined || !/^\d{1,9}$/.test(given)) return DEFAULT_POOL;
  return Number(given) === 0 ? 0 : Math.max(SMALLEST_POOL, Number(given));
}
