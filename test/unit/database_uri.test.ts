import { expect, test } from "bun:test";
import { MongoClient } from "mongodb";
// @ts-expect-error: the list of all options that a URI may have is not exported, and has no types.
import { OPTIONS } from "../../node_modules/mongodb/lib/connection_string.js";
import { checkUri } from "../../src/config/database_uri.ts";
import { KekError } from "../../src/errors/errors.ts";
import { clientOptions } from "../../src/store/client_options.ts";

/** Options of the database's URI: those that contradict the guarantees are refused by name, the others change none of them. */

function refusalOf(uri: string): KekError | undefined {
  try {
    checkUri(uri);
    return undefined;
  } catch (thrown) {
    if (thrown instanceof KekError) return thrown;
    throw thrown;
  }
}

const CONTRADICTING: [string, string][] = [
  ["readConcernLevel=local", "readConcernLevel"],
  ["readConcernLevel=linearizable", "readConcernLevel"],
  ["w=1", "w"],
  ["w=0", "w"],
  ["w=2", "w"],
  ["w=other", "w"],
  ["writeConcern=1", "writeConcern"],
  ["fsync=false", "fsync"],
  ["journal=false", "journal"],
  ["j=false", "j"],
  ["wtimeoutMS=5000", "wtimeoutMS"],
  ["wtimeout=5000", "wtimeout"],
  ["readPreference=secondary", "readPreference"],
  ["readPreference=primaryPreferred", "readPreference"],
  ["readPreferenceTags=dc:other", "readPreferenceTags"],
  ["maxStalenessSeconds=120", "maxStalenessSeconds"],
  ["retryWrites=false", "retryWrites"],
  ["retryReads=false", "retryReads"],
];

test.each(CONTRADICTING)("%s is refused by name, and its value is not shown", (option, name) => {
  for (const base of ["mongodb://u:p@host:1/db", "mongodb://a,b/", "mongodb://a", "mongodb+srv://host/db"]) {
    for (const query of [option, `replicaSet=rs0&${option}`, `${option}&appName=other`, option.toUpperCase()]) {
      const refusal = refusalOf(`${base}?${query}`);
      expect(refusal?.code).toBe("config_invalid");
      expect(refusal?.message).toContain(` sets ${name}: `);
      expect(refusal?.hint).toContain(`remove ${name} `);
      expect(refusal?.message).not.toMatch(/other|5000|120|secondary/);
    }
  }
});

test("all of them are named at once", () => {
  const refusal = refusalOf("mongodb://host/?w=1&tls=true&journal=false&W=0&retryWrites=false");
  expect(refusal?.message).toContain(" sets w, journal, retryWrites: ");
});

test("an option that is written as only a parser of URLs reads it is found", () => {
  for (const query of ["readConcern%4cevel=local", "read\tConcernLevel=loc\nal", "w=majority%20", "w=majority+"])
    expect(refusalOf(`mongodb://host/?${query}`)?.code).toBe("config_invalid");
  expect(refusalOf("mongodb://host/#?w=1")).toBeUndefined();
});

test("options that say what this program does anyway are no contradiction", () => {
  const same = "readConcernLevel=majority&w=majority&journal=true&j=true&readPreference=primary";
  const rest = "retryWrites=true&retryReads=true&wtimeoutMS=0&replicaSet=rs0&tls=true&authSource=admin&maxPoolSize=5";
  expect(refusalOf(`mongodb://u:p%3Fw%3D1@host:1/db?${same}&${rest}`)).toBeUndefined();
  expect(refusalOf("mongodb://host/w=1")).toBeUndefined();
  expect(refusalOf("mongodb://host/?constructor=1&__proto__=1")).toBeUndefined();
});

/** What no option of a URI may change, of the options that the driver has made of URI and object. */
const FIXED = [
  ...["readConcern", "readPreference", "retryReads", "retryWrites", "maxAdaptiveRetries"],
  ...["minPoolSize", "waitQueueTimeoutMS", "serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS"],
  ...["heartbeatFrequencyMS", "minHeartbeatFrequencyMS", "timeoutMS"],
  ...["raw", "promoteLongs", "promoteValues", "promoteBuffers", "useBigInt64", "bsonRegExp", "ignoreUndefined"],
  ...["serializeFunctions", "checkKeys", "forceServerObjectId", "enableUtf8Validation", "fieldsAsRaw", "pkFactory"],
  ...["autoEncryption", "serverApi"],
];

function fixedOf(uri: string): Record<string, unknown> {
  const { options } = new MongoClient(uri, clientOptions(uri, { appName: "test" }));
  const { wtimeoutMS, j, w } = options.writeConcern ?? {};
  // Zero is no time limit.
  const writeConcern = { w, j, limit: wtimeoutMS || undefined };
  const fixed = FIXED.map((name) => [name, options[name as keyof typeof options]]);
  return { ...Object.fromEntries(fixed), writeConcern };
}

const VALUES = ["true", "false", "0", "1", "5", "majority", "local", "primary", "secondary", "dc:a", "none", "poll"];

test.each(Object.keys(OPTIONS))("the driver's option %s is refused, or changes nothing that is fixed", (name) => {
  const expected = fixedOf("mongodb://host/");
  for (const value of VALUES) {
    const uri = `mongodb://host/?${name}=${value}`;
    if (refusalOf(uri) !== undefined) continue;
    let fixed: Record<string, unknown>;
    try {
      fixed = fixedOf(uri);
    } catch {
      // The driver takes no such value: nothing is connected with it.
      continue;
    }
    expect({ uri, fixed }).toEqual({ uri, fixed: expected });
  }
});

test("a worker has one connection, and a process never so few that it waits for itself, whatever the URI says", () => {
  const poolOf = (query: string, poolSize?: number) => {
    const uri = `mongodb://host/?${query}`;
    const { options } = new MongoClient(
      uri,
      clientOptions(uri, { appName: "test", ...(poolSize ? { poolSize } : {}) }),
    );
    return [options.minPoolSize, options.maxPoolSize];
  };
  expect(poolOf("minPoolSize=5&maxPoolSize=20", 1)).toEqual([0, 1]);
  expect(poolOf("")).toEqual([0, 100]);
  expect(poolOf("maxPoolSize=1")).toEqual([0, 10]);
  expect(poolOf("maxpoolsize=20")).toEqual([0, 20]);
  expect(poolOf("maxPoolSize=0")).toEqual([0, 0]);
});
