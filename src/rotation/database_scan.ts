import { createHmac, timingSafeEqual } from "node:crypto";
import { availableParallelism } from "node:os";
import { EJSON } from "bson";
import { findEnvelopes, versionLabel } from "../envelope/envelope_finder.ts";
import { rfc3339 } from "../errors/errors.ts";
import { CollectionChanged, readWhole } from "../store/collection_reader.ts";
import { type CollectionInfo, readCollections } from "../store/collections.ts";
import { isTransient } from "../store/failures.ts";
import { readState } from "../store/state.ts";
import { serverNow } from "../store/store.ts";
import {
  dropVerification,
  readVerification,
  type ScanDoc,
  type ScannedCollection,
  saveVerification,
} from "../store/verifications.ts";
import { bytesIn } from "../store/whole_records.ts";
import type { Context } from "./context.ts";
import { RecentRate } from "./recent_rate.ts";
import { basisOf, STALE_MS } from "./verify_records.ts";

/**
 * Reads every collection of the database, whole, and finds the envelopes in it, whatever `kek_fields` or an index says. What was
 * inserted while it ran is read as well. An envelope that a program copies meanwhile into a record that was read already is
 * not seen.
 */

/** Envelopes at one place and version. */
export interface EnvelopePlace {
  collection: string;
  /** `[]` stands for a position in an array. */
  path: string;
  /** As text, with the type of a number that is no int32. */
  version: string;
  /** NaN for what is no number. */
  number: number;
  count: number;
  /** Some of them. */
  samples: Sample[];
}

/** An envelope and its record, as raw BSON. */
export interface Sample {
  record: Uint8Array;
  envelope: Uint8Array;
}

export interface ScanReport {
  places: EnvelopePlace[];
  collections: number;
  records: number;
  bytes: number;
  seconds: number;
  /** When the interrupted run began that this one resumed; RFC 3339. */
  resumed: string | null;
}

export interface ScanReporter {
  note(message: string): void;
  progress(progress: ScanProgress): void;
}

export interface ScanProgress {
  bytes: number;
  /** About how many there are in all. */
  of: number;
  records: number;
  collections: number;
  /** Bytes a second over the last seconds. */
  rate: number;
  eta: number | undefined;
}

const SAMPLES = 3;
const SAVE_MS = 2000;
const REPORT_MS = 500;
const BACKOFF_MS = 1000;
const TRIES = 30;

/** @param anew whether to start over, whatever an interrupted run had read. */
export async function scanDatabase(context: Context, anew: boolean, reporter: ScanReporter): Promise<ScanReport> {
  const basis = basisOf(await readState(context.store));
  const earlier = anew ? undefined : await earlierScan(context, basis, reporter);
  const doc = earlier ?? { _id: "scan", started_at: await serverNow(context.store), basis, collections: [] };
  const scan = new DatabaseScan(context, doc, reporter);
  const report = await scan.run();
  await dropVerification(context.store, "scan");
  return { ...report, resumed: earlier === undefined ? null : rfc3339(earlier.started_at) };
}

// ---------------------------------------------------------------------------------------------------------------------

class DatabaseScan {
  readonly #context: Context;
  readonly #reporter: ScanReporter;
  readonly #doc: ScanDoc;
  readonly #samples = new Map<string, Sample[]>();
  readonly #rate = new RecentRate();
  readonly #began = performance.now();
  #of = 0;
  #mayBeSaved = true;
  #savedAt = performance.now();
  #saving: Promise<void> | undefined;
  #reportedAt = 0;

  constructor(context: Context, doc: ScanDoc, reporter: ScanReporter) {
    this.#context = context;
    this.#doc = doc;
    this.#reporter = reporter;
  }

  async run(): Promise<Omit<ScanReport, "resumed">> {
    let listed = await this.#list();
    this.#of = await bytesIn(
      this.#context.store,
      listed.map(({ name }) => name),
    );
    for (let left = listed; left.length > 0; left = this.#unread(listed)) {
      await this.#readAll(left);
      listed = await this.#list();
    }
    // What was inserted since lies behind the positions: a record that moved from one collection to another in between, too.
    await this.#readAll(listed);
    for (let left = this.#unread(await this.#list()); left.length > 0; left = this.#unread(await this.#list()))
      await this.#readAll(left);
    await this.#saving;
    return this.#report(await this.#list());
  }

  // -------------------------------------------------------------------------------------------------------------------

  /** Views hold nothing of their own. */
  async #list(): Promise<CollectionInfo[]> {
    return (await readCollections(this.#context.store)).filter(({ type }) => type !== "view");
  }

  #unread(listed: CollectionInfo[]): CollectionInfo[] {
    return listed.filter((collection) => this.#entry(collection)?.done !== true);
  }

  #entry(collection: CollectionInfo): ScannedCollection | undefined {
    return this.#doc.collections.find(({ identity }) => identity === identityOf(collection));
  }

  /** Several collections at once: MongoDB reads one while another's answer is searched. */
  async #readAll(collections: CollectionInfo[]): Promise<void> {
    const queue = [...collections];
    const worker = async () => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) await this.#readCollection(next);
    };
    await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, worker));
  }

  /** From its position. Where MongoDB gives none, from its beginning each time. */
  async #readCollection(collection: CollectionInfo): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      const entry = this.#begun(collection);
      try {
        for await (const { array, position } of readWhole(
          this.#context.store,
          collection,
          entry.position ?? undefined,
        )) {
          this.#search(entry, array);
          entry.position = position ?? entry.position;
          await this.#tell();
        }
        entry.done = true;
        return;
      } catch (thrown) {
        if (thrown instanceof CollectionChanged) {
          this.#forget(entry);
          // Another one of its name, or none, is listed next; the same one is read again from its beginning.
          return;
        }
        if (!isTransient(thrown) || tries === TRIES) throw thrown;
        if (entry.position === null) this.#forget(entry);
        await new Promise((resolve) => setTimeout(resolve, BACKOFF_MS));
      }
    }
  }

  #begun(collection: CollectionInfo): ScannedCollection {
    const found = this.#entry(collection);
    if (found !== undefined && found.position !== null) {
      found.name = collection.name;
      return found;
    }
    if (found !== undefined) this.#forget(found);
    const { name } = collection;
    const fresh = { name, done: false, position: null, records: 0, bytes: 0, places: [] };
    const entry: ScannedCollection = { identity: identityOf(collection), ...fresh };
    this.#doc.collections.push(entry);
    return entry;
  }

  #forget(entry: ScannedCollection): void {
    const { collections } = this.#doc;
    collections.splice(collections.indexOf(entry), 1);
  }

  #search(entry: ScannedCollection, array: Uint8Array): void {
    entry.records += findEnvelopes(
      array,
      ({ path, version: { number, type }, at, end: envelopeEnd }, { start, end }) => {
        const version = versionLabel({ number, type });
        let place = entry.places.find((each) => each.path === path && each.version === version);
        if (place === undefined) {
          place = { path, version, number, count: 0 };
          entry.places.push(place);
        }
        place.count += 1;
        if (place.count > SAMPLES) return;
        const key = JSON.stringify([entry.identity, path, version]);
        const sample = { record: array.slice(start, end), envelope: array.slice(at, envelopeEnd) };
        this.#samples.set(key, [...(this.#samples.get(key) ?? []), sample]);
      },
    );
    entry.bytes += array.length;
    this.#rate.add(array.length);
  }

  async #tell(): Promise<void> {
    const now = performance.now();
    if (now - this.#reportedAt > REPORT_MS) {
      this.#reportedAt = now;
      const { collections } = this.#doc;
      const bytes = sum(collections, "bytes");
      const of = Math.max(bytes, this.#of);
      const rate = this.#rate.perSecond();
      const eta = rate > 0 ? (of - bytes) / rate : undefined;
      this.#reporter.progress({
        bytes,
        of,
        records: sum(collections, "records"),
        collections: collections.length,
        rate,
        eta,
      });
    }
    if (now - this.#savedAt > SAVE_MS) {
      this.#savedAt = now;
      // Not waited for: what is saved is true up to its positions, and the next save has more.
      this.#saving ??= this.#save().finally(() => {
        this.#saving = undefined;
      });
      await Promise.resolve();
    }
  }

  async #save(): Promise<void> {
    if (!this.#mayBeSaved) return;
    const { store, auditor } = this.#context;
    // A copy of this moment: the driver may encode it later, when more has been read.
    const collections = this.#doc.collections.map((entry) => ({
      ...entry,
      places: entry.places.map((each) => ({ ...each })),
    }));
    const doc = sealed({ ...this.#doc, collections }, auditor.secret);
    this.#mayBeSaved = await saveVerification(store, doc);
    if (!this.#mayBeSaved)
      this.#reporter.note("MongoDB does not permit writing to kek_verifications: this scan cannot be resumed later");
  }

  #report(listed: CollectionInfo[]): Omit<ScanReport, "resumed"> {
    const there = new Map(listed.map((collection) => [identityOf(collection), collection.name]));
    // What was dropped meanwhile holds nothing any more.
    const collections = this.#doc.collections.filter(({ identity }) => there.has(identity));
    const places = collections.flatMap(({ identity, name, places }) =>
      places.map(({ path, version, number, count }) => ({
        collection: there.get(identity) ?? name,
        path,
        version,
        number: Number(number),
        count,
        samples: this.#samples.get(JSON.stringify([identity, path, version])) ?? [],
      })),
    );
    return {
      places: places.sort(byPlace),
      collections: collections.length,
      records: sum(collections, "records"),
      bytes: sum(collections, "bytes"),
      seconds: (performance.now() - this.#began) / 1000,
    };
  }
}

function identityOf({ uuid, name }: CollectionInfo): string {
  return uuid ?? name;
}

function byPlace(a: EnvelopePlace, b: EnvelopePlace): number {
  return (
    a.collection.localeCompare(b.collection) ||
    a.path.localeCompare(b.path) ||
    a.number - b.number ||
    a.version.localeCompare(b.version)
  );
}

function sum(collections: ScannedCollection[], key: "records" | "bytes"): number {
  return collections.reduce((total, collection) => total + collection[key], 0);
}

/**
 * Keys are destroyed by what a scan did not find, and whoever can write to the database could say that all is read: so what is saved
 * carries a mac under the audit secret, and another one is not resumed.
 */
function sealed(doc: ScanDoc, secret: string): ScanDoc & { mac: string } {
  return { ...doc, mac: macOf(doc, secret) };
}

function macOf({ _id, started_at, basis, collections }: ScanDoc, secret: string): string {
  const text = EJSON.stringify(["certautopilot/scan/1", _id, started_at, basis, collections], { relaxed: false });
  return createHmac("sha256", secret).update(text).digest("hex");
}

/** What an interrupted scan had read, unless keys or the rotation have changed since. */
async function earlierScan(
  { store, auditor }: Context,
  basis: string,
  reporter: ScanReporter,
): Promise<ScanDoc | undefined> {
  const found = await readVerification(store, "scan");
  if (found === undefined) return undefined;
  const { mac, ...doc } = found as ScanDoc & { mac?: unknown };
  const began = `an interrupted scan of ${rfc3339(doc.started_at)} is not resumed`;
  const expected = Buffer.from(macOf(doc, auditor.secret));
  const given = Buffer.from(String(mac));
  if (given.length !== expected.length || !timingSafeEqual(given, expected))
    reporter.note(`${began}: it was saved under another audit secret, or changed`);
  else if (doc.basis !== basis)
    reporter.note(`${began}: a rotation has moved records, or versions have changed, since`);
  else if ((await serverNow(store)).getTime() - doc.started_at.getTime() > STALE_MS)
    reporter.note(`${began}: it is more than a day old`);
  else {
    reporter.note(
      `resuming the scan of ${rfc3339(doc.started_at)}: ${sum(doc.collections, "records")} records are read`,
    );
    return doc;
  }
  return undefined;
}
