import { createHash, randomBytes } from "node:crypto";
import { openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { MongoClient } from "mongodb";
import type { FieldEncryption } from "../../src/index.ts";
import { Random } from "./random.ts";

/**
 * A service under torture: it reads and writes secrets through the library and keeps a ledger of what it did, outside of
 * the database. A line is in the ledger before what it tells of: this process may be killed or paused between any two.
 *
 * Modes: `seed` writes each record once, `traffic` continues until SIGTERM, `verify` opens every record and prints what is in it.
 */

export type LedgerLine =
  /** About to write a revision of a record. */
  | { do: "intent"; id: number; revision: number; digest: string }
  /** MongoDB acknowledged it by a majority. */
  | { do: "acknowledged"; id: number; revision: number }
  | { do: "read"; id: number; revision: number; digest: string }
  /** A fresh copy of a record asked for a version that this process does not hold. */
  | { do: "missing key"; id: number; revision: number; version: number }
  | { do: "failed"; what: string; code: string; message: string };

const { TORTURE_MODE, TORTURE_LEDGER, TORTURE_TREE, TORTURE_SEED, TORTURE_RECORDS, TORTURE_SHARE } = process.env;
const records = Number(TORTURE_RECORDS);
/** This service writes the records whose number leaves `part` when divided by `parts`: each record has one writer. */
const [part, parts] = (TORTURE_SHARE ?? "0/1").split("/").map(Number) as [number, number];
const random = new Random(Number(TORTURE_SEED));
const ledger = openSync(TORTURE_LEDGER ?? "/dev/null", "a", 0o600);
const { loadConfig, openFieldEncryption } = (await import(
  join(TORTURE_TREE ?? "", "src/index.ts")
)) as typeof import("../../src/index.ts");
const config = loadConfig();

interface Secret {
  _id: number;
  revision: number;
  // biome-ignore lint/suspicious/noExplicitAny: an envelope as it is stored
  value: any;
}

const client = new MongoClient(config.database.uri, {
  writeConcern: { w: "majority", journal: true },
  serverSelectionTimeoutMS: 3000,
  socketTimeoutMS: 8000,
  // For ever by default, also where no connection ever comes.
  waitQueueTimeoutMS: 8000,
});
const secrets = client.db(config.database.name).collection<Secret>("secrets");
const fromSecondary = secrets.db.collection<Secret>("secrets", { readPreference: "secondaryPreferred" });
const place = (id: number) => ({ collection: "secrets", id, field: "value" });
const digest = (text: string | Uint8Array) => createHash("sha256").update(text).digest("base64url").slice(0, 16);
const note = (line: LedgerLine) => void writeSync(ledger, `${JSON.stringify(line)}\n`);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The revision that this process last began for a record. */
const begun = new Map<number, number>();
const doing = new Map<symbol, string>();
let stopped = false;
process.on("SIGTERM", () => {
  stopped = true;
  // Whoever has to find out why it does not end.
  setTimeout(
    () => process.stderr.write(`still at work: ${[...doing.values()].join(", ")}; ${kek.problem}\n`),
    10_000,
  ).unref();
});

const kek = await joined();
process.stderr.write("joined\n");
if (TORTURE_MODE === "seed") await seed(kek);
else if (TORTURE_MODE === "verify") await verify(kek);
else await Promise.all([write(kek), write(kek), replace(), replace(), read(kek), read(kek)]);
await during("closing the key", kek.close());
await during("closing the client", client.close());
process.exit(0);

// ---------------------------------------------------------------------------------------------------------------------

/** Whatever keeps it from joining may pass: it tries again, as a supervisor would. */
async function joined(): Promise<FieldEncryption> {
  for (;;) {
    try {
      return await openFieldEncryption(config);
    } catch (thrown) {
      failed("join", thrown);
      if (stopped || TORTURE_MODE !== "traffic") throw thrown;
      await pause(300);
    }
  }
}

async function during<T>(what: string, work: Promise<T>): Promise<T> {
  const key = Symbol(what);
  doing.set(key, what);
  try {
    return await work;
  } finally {
    doing.delete(key);
  }
}

async function seed(kek: FieldEncryption): Promise<void> {
  for (let id = 0; id < records; id += 1) {
    const text = `${id}/0/${randomBytes(12).toString("hex")}`;
    note({ do: "intent", id, revision: 0, digest: digest(text) });
    await secrets.insertOne({ _id: id, revision: 0, value: await kek.encrypt(text, place(id)) });
    note({ do: "acknowledged", id, revision: 0 });
  }
}

async function verify(kek: FieldEncryption): Promise<void> {
  for await (const { _id: id, revision, value } of secrets.find().sort({ _id: 1 })) {
    const line: Record<string, unknown> = { id, revision, version: value.kek_version };
    try {
      line["digest"] = digest(await kek.decrypt(value, place(id)));
    } catch (thrown) {
      line["error"] = codeOf(thrown);
    }
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }
}

/** New values for its own records. Some are encrypted long before they are stored, as in a service that does much in between. */
async function write(kek: FieldEncryption): Promise<void> {
  while (!stopped) {
    const id = own();
    const holdMs = random.chance(0.15) ? random.between(50, 3000) : 0;
    try {
      const before = await during("a look", secrets.findOne({ _id: id }, { projection: { revision: 1 } }));
      const revision = Math.max(before?.revision ?? 0, begun.get(id) ?? 0) + 1;
      begun.set(id, revision);
      const text = `${id}/${revision}/${randomBytes(12).toString("hex")}`;
      note({ do: "intent", id, revision, digest: digest(text) });
      const store = kek.write(async () => {
        const value = await kek.encrypt(text, place(id));
        await pause(holdMs);
        // Never over a newer revision: a write whose answer was lost may land after its successor.
        const newer = { $set: { value, revision } };
        return await during("an update", secrets.updateOne({ _id: id, revision: { $lt: revision } }, newer));
      });
      const stored = await during("a write", store);
      if (stored.matchedCount === 1) note({ do: "acknowledged", id, revision });
    } catch (thrown) {
      failed("write", thrown);
    }
    await pause(random.between(5, 40));
  }
}

/** Whole documents are put back as they were read, envelope and all: the application's way of changing another member. */
async function replace(): Promise<void> {
  while (!stopped) {
    const _id = own();
    try {
      const document = await during("a find", secrets.findOne({ _id }));
      if (document !== null) {
        await pause(random.chance(0.4) ? random.between(500, 4000) : random.between(0, 100));
        const touched = { ...document, touched: new Date() };
        await during("a replace", secrets.replaceOne({ _id, revision: document.revision }, touched));
      }
    } catch (thrown) {
      failed("replace", thrown);
    }
    await pause(random.between(5, 60));
  }
}

async function read(kek: FieldEncryption): Promise<void> {
  while (!stopped) {
    const id = random.between(0, records - 1);
    let from = random.chance(0.3) ? fromSecondary : secrets;
    try {
      for (let again = 0; ; again += 1) {
        const record = await during("a read", from.findOne({ _id: id }));
        if (record === null) break;
        const { revision, value } = record;
        const readAt = performance.now();
        try {
          note({ do: "read", id, revision, digest: digest(await during("an opening", kek.decrypt(value, place(id)))) });
          break;
        } catch (thrown) {
          if (codeOf(thrown) !== "version_not_loaded") throw thrown;
          // A copy that was held across a long sleep may be older than the drain, and so may one from a secondary that
          // lags so far: what counts is a fresh one, from the primary.
          const stale = from !== secrets || performance.now() - readAt > config.fleet.drainMs;
          from = secrets;
          if (stale && again < 3) continue;
          note({ do: "missing key", id, revision, version: value.kek_version });
          break;
        }
      }
    } catch (thrown) {
      failed("read", thrown);
    }
    await pause(random.between(2, 20));
  }
}

function own(): number {
  return part + parts * random.between(0, Math.floor((records - 1 - part) / parts));
}

function failed(what: string, thrown: unknown): void {
  note({ do: "failed", what, code: codeOf(thrown), message: String((thrown as Error)?.message).slice(0, 200) });
}

function codeOf(thrown: unknown): string {
  const { code, name } = thrown as { code?: unknown; name?: string };
  return String(code ?? name ?? "unknown");
}
