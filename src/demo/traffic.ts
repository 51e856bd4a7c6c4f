import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../errors/errors.ts";
import type { FieldEncryption } from "../fleet/fleet_encryption.ts";
import type { Store } from "../store/store.ts";
import { KINDS, type Kind } from "./secret_kinds.ts";

/** Records, the ledger of what they must hold, and the services that read and write them all the while. */

/** What every acknowledged write left behind: record and revision to the digest of its plaintext. */
export class Ledger {
  readonly #digests = new Map<string, string>();
  readonly #newest = new Map<string, number>();

  /** Before the write: a reader may see it before the writer hears of it. */
  expect(kind: Kind, id: number, revision: number, plaintext: string): void {
    this.#digests.set(`${kind.collection}:${kind.path}:${id}:${revision}`, digest(plaintext));
  }

  acknowledged(kind: Kind, id: number, revision: number): void {
    this.#newest.set(`${kind.collection}:${kind.path}:${id}`, revision);
  }

  matches(kind: Kind, id: number, revision: number, plaintext: Uint8Array): boolean {
    return this.#digests.get(`${kind.collection}:${kind.path}:${id}:${revision}`) === digest(plaintext);
  }

  /** The newest acknowledged revision, or undefined for a record that was never written. */
  newest(kind: Kind, id: number): number | undefined {
    return this.#newest.get(`${kind.collection}:${kind.path}:${id}`);
  }

  get records(): number {
    return this.#newest.size;
  }
}

export interface Traffic {
  reads: number;
  writes: number;
  /** Reads and writes that failed, in words; a write that the fence rejected and the library's retry carried through has not. */
  failures: string[];
}

/** How many records of a kind there are when `total` are seeded. */
export function countOf(kind: Kind, total: number): number {
  return Math.round((total * kind.share) / 100);
}

export function revisionKey(kind: Kind): string {
  return `revision_of_${kind.path}`;
}

export async function seed(encryption: FieldEncryption, store: Store, ledger: Ledger, total: number): Promise<void> {
  const BATCH = 500;
  for (const kind of KINDS) {
    const count = countOf(kind, total);
    for (let start = 0; start < count; start += BATCH) {
      const ids = Array.from({ length: Math.min(BATCH, count - start) }, (_, index) => start + index);
      const updates = await Promise.all(
        ids.map(async (id) => {
          const plaintext = kind.make();
          ledger.expect(kind, id, 0, plaintext);
          const envelope = await encryption.encrypt(plaintext, { collection: kind.collection, id, field: kind.path });
          return {
            updateOne: {
              filter: { _id: id as never },
              update: { $set: { [kind.path]: envelope, [revisionKey(kind)]: 0 } },
              upsert: true,
            },
          };
        }),
      );
      await store.db.collection(kind.collection).bulkWrite(updates, { ordered: false });
      for (const id of ids) ledger.acknowledged(kind, id, 0);
    }
  }
}

/** What a service of the demo works with. */
interface DemoService {
  encryption: FieldEncryption;
  store: Store;
  ledger: Ledger;
  /** How many records there are. */
  total: number;
  traffic: Traffic;
  stopped: () => boolean;
}

/** A service that rewrites random secrets until it is told to stop. Each record has one writer. */
export async function write({ encryption, store, ledger, total, traffic, stopped }: DemoService): Promise<void> {
  while (!stopped()) {
    const { kind, id } = pick(total);
    const revision = (ledger.newest(kind, id) ?? -1) + 1;
    const plaintext = kind.make();
    ledger.expect(kind, id, revision, plaintext);
    try {
      await encryption.write(async () => {
        const envelope = await encryption.encrypt(plaintext, { collection: kind.collection, id, field: kind.path });
        await store.db
          .collection(kind.collection)
          .updateOne({ _id: id as never }, { $set: { [kind.path]: envelope, [revisionKey(kind)]: revision } });
      });
      ledger.acknowledged(kind, id, revision);
      traffic.writes += 1;
    } catch (thrown) {
      traffic.failures.push(`write ${kind.collection} ${id}: ${messageOf(thrown)}`);
    }
    await pause(2);
  }
}

/** A service that reads random secrets and compares them with the ledger. */
export async function read({ encryption, store, ledger, total, traffic, stopped }: DemoService): Promise<void> {
  while (!stopped()) {
    const { kind, id } = pick(total);
    try {
      const record = await store.db.collection(kind.collection).findOne({ _id: id as never });
      const plaintext = await encryption.decrypt(record?.[kind.path], {
        collection: kind.collection,
        id,
        field: kind.path,
      });
      if (!ledger.matches(kind, id, record?.[revisionKey(kind)], plaintext))
        throw new Error("the plaintext is not what was written");
      traffic.reads += 1;
    } catch (thrown) {
      traffic.failures.push(`read ${kind.collection} ${id}: ${messageOf(thrown)}`);
    }
    await pause(1);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function pick(total: number): { kind: Kind; id: number } {
  const kind = KINDS[Math.floor(Math.random() * KINDS.length)] as Kind;
  return { kind, id: Math.floor(Math.random() * countOf(kind, total)) };
}

function digest(plaintext: string | Uint8Array): string {
  return createHash("sha256").update(plaintext).digest("base64");
}

async function pause(ms: number): Promise<void> {
  await sleep(ms);
}
