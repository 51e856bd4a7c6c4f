import { createHmac, timingSafeEqual } from "node:crypto";
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { EJSON, type Timestamp } from "bson";
import { collectGarbage } from "../config/runtime.ts";
import { KekError, messageOf, rfc3339 } from "../errors/errors.ts";
import { ChangeWatch, moment } from "../store/change_watch.ts";
import { CollectionChanged, primaryNode, type ReadPosition, readWhole } from "../store/collection_reader.ts";
import { type CollectionInfo, readCollections } from "../store/collections.ts";
import { isTransient } from "../store/mongodb_errors.ts";
import { readState } from "../store/state.ts";
import { serverNow } from "../store/store.ts";
import {
  dropVerification,
  readVerification,
  type ScanDoc,
  type ScannedPlace,
  saveVerification,
} from "../store/verifications.ts";
import { bytesIn } from "../store/whole_records.ts";
import type { Context } from "./context.ts";
import { RecentRate } from "./progress.ts";
import { type EnvelopePlace, PlaceCounts, WrittenCounts } from "./scan_counts.ts";
import { basisOf, STALE_MS } from "./verify_records.ts";

/**
 * Reads every collection of the database, whole, and finds the envelopes in it, whatever `kek_fields` or an index says. Where a key
 * depends on it, a change stream that was opened before the first read shows what was written since: a record that moves from a
 * collection that is not read yet into one that is, also while an interrupted search waits to be resumed.
 */

export interface ScanOptions {
  /** Of the key that is to be destroyed, or left: its envelopes are looked for in what is written meanwhile too. */
  version?: number;
  /** Start over, whatever an interrupted search had read. */
  restart: boolean;
  /** Keep some of the envelopes, to find out where they open. */
  samples?: boolean;
}

export interface ScanReport {
  places: EnvelopePlace[];
  /** Envelopes of the version that were written since the search began, wherever they are now. */
  written: ScannedPlace[];
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

const SAVE_MS = 2000;
const REPORT_MS = 500;
const COLLECT_BYTES = 128 * 2 ** 20;
const BACKOFF_MS = 1000;
const TRIES = 30;
/** So often one collection may be dropped, renamed or replaced while it is read. */
const RESTARTS = 10;

/** @throws KekError `refused` when a collection is replaced faster than it can be read. */
export async function scanDatabase(
  context: Context,
  options: ScanOptions,
  reporter: ScanReporter,
): Promise<ScanReport> {
  const { store } = context;
  const basis = basisOf(await readState(store));
  const earlier = options.restart ? undefined : await earlierScan(context, basis, options, reporter);
  const watch = earlier?.watch ?? (options.version === undefined ? undefined : await ChangeWatch.open(store));
  try {
    const started_at = earlier?.doc.started_at ?? (await serverNow(store));
    const scan = new DatabaseScan(context, {
      options,
      watch,
      startedAt: started_at,
      basis,
      before: earlier?.doc,
      reporter,
    });
    const report = await scan.run(await moment(store));
    await dropVerification(store, "scan");
    return { ...report, resumed: earlier === undefined ? null : rfc3339(started_at) };
  } finally {
    await watch?.close();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** What was read of one collection. */
interface Reading {
  identity: string;
  name: string;
  done: boolean;
  position: ReadPosition | null;
  records: number;
  bytes: number;
  tally: PlaceCounts;
}

class DatabaseScan {
  readonly #context: Context;
  readonly #options: ScanOptions;
  readonly #watch: ChangeWatch | undefined;
  readonly #written: WrittenCounts | undefined;
  readonly #startedAt: Date;
  readonly #basis: string;
  readonly #reporter: ScanReporter;
  /** By the collection's own identity. */
  readonly #readings: Map<string, Reading>;
  readonly #restarts = new Map<string, number>();
  readonly #rate = new RecentRate();
  readonly #began = performance.now();
  #since: Timestamp | undefined;
  #of = 0;
  #mayBeSaved = true;
  #savedAt = performance.now();
  #saving: Promise<void> | undefined;
  #reportedAt = 0;
  #uncollected = 0;

  constructor(
    context: Context,
    {
      options,
      watch,
      startedAt,
      basis,
      before,
      reporter,
    }: {
      options: ScanOptions;
      watch: ChangeWatch | undefined;
      startedAt: Date;
      basis: string;
      before: ScanDoc | undefined;
      reporter: ScanReporter;
    },
  ) {
    this.#context = context;
    this.#options = options;
    this.#watch = watch;
    const { version, samples = false } = options;
    this.#written = version === undefined ? undefined : new WrittenCounts(version, before?.watch?.written ?? []);
    this.#startedAt = startedAt;
    this.#basis = basis;
    this.#reporter = reporter;
    this.#readings = new Map(
      (before?.collections ?? []).map(({ places, ...entry }) => [
        entry.identity,
        { ...entry, tally: new PlaceCounts(entry.name, places, samples) },
      ]),
    );
  }

  /** @param since a moment after the watch was opened: each read sees at least what was written before. */
  async run(since: Timestamp): Promise<Omit<ScanReport, "resumed">> {
    this.#since = since;
    try {
      return await this.#run();
    } finally {
      await this.#saving;
    }
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #run(): Promise<Omit<ScanReport, "resumed">> {
    let listed = await this.#list();
    this.#of = await bytesIn(
      this.#context.store,
      listed.map(({ name }) => name),
    );
    for (let left = this.#unread(listed); left.length > 0; left = this.#unread(listed)) {
      await this.#readAll(left);
      listed = await this.#list();
    }
    // A cursor answers one caller at a time.
    await this.#saving;
    // Collections that were made since the last list hold what the watch has seen inserted.
    await this.#watch?.drain(await moment(this.#context.store), (events) => this.#written?.add(events));
    return this.#report(listed);
  }

  /** Views hold nothing of their own. */
  async #list(): Promise<CollectionInfo[]> {
    for (let tries = 1; ; tries += 1) {
      try {
        return (await readCollections(this.#context.store)).filter(({ type }) => type !== "view");
      } catch (thrown) {
        if (!isTransient(thrown) || tries === TRIES) throw thrown;
        await sleep(BACKOFF_MS);
      }
    }
  }

  #unread(listed: CollectionInfo[]): CollectionInfo[] {
    return listed.filter((collection) => this.#readings.get(identityOf(collection))?.done !== true);
  }

  /** Several collections at once: MongoDB reads one while another's answer is searched. */
  async #readAll(collections: CollectionInfo[]): Promise<void> {
    const queue = [...collections];
    let failure: unknown;
    const worker = async () => {
      for (let next = queue.shift(); next !== undefined && failure === undefined; next = queue.shift())
        await this.#readCollection(next, () => failure !== undefined).catch((thrown) => {
          failure ??= thrown;
        });
    };
    await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, worker));
    if (failure !== undefined) throw failure;
  }

  /** From its position, if the same member is still the primary; else from its beginning. */
  async #readCollection(collection: CollectionInfo, stopped: () => boolean): Promise<void> {
    const { store } = this.#context;
    for (let tries = 1; ; tries += 1) {
      let reading: Reading | undefined;
      try {
        const node = await primaryNode(store);
        const current = this.#begun(collection, node);
        reading = current;
        const from = current.position ?? undefined;
        for await (const { array, position } of readWhole(store, collection, this.#since as Timestamp, from)) {
          current.records += current.tally.add(array);
          current.bytes += array.length;
          this.#rate.add(array.length);
          this.#collect(array.length);
          if (position !== undefined) {
            current.position = { after: position, node };
            tries = 1;
          }
          if (stopped()) return;
          await this.#tell();
        }
        current.done = true;
        return;
      } catch (thrown) {
        if (thrown instanceof CollectionChanged) {
          this.#restart(collection, thrown);
          // Another one of its name, or none, is listed next; the same one is read again from its beginning.
          return;
        }
        if (!isTransient(thrown) || tries === TRIES) throw thrown;
        // Without a position what was counted would be counted twice.
        if (reading?.position === null) this.#readings.delete(reading.identity);
        await sleep(BACKOFF_MS);
      }
    }
  }

  #restart({ name, uuid }: CollectionInfo, thrown: CollectionChanged): void {
    this.#readings.delete(uuid ?? name);
    const restarts = (this.#restarts.get(name) ?? 0) + 1;
    this.#restarts.set(name, restarts);
    this.#reporter.note(`${thrown.message}: reading it again`);
    if (restarts < RESTARTS) return;
    throw new KekError(
      "refused",
      `${name} was dropped, renamed or replaced ${restarts} times while it was read`,
      "run it again when whatever replaces that collection rests",
    );
  }

  #begun(collection: CollectionInfo, node: string): Reading {
    const identity = identityOf(collection);
    const found = this.#readings.get(identity);
    if (found?.position?.node === node) return found;
    const tally = new PlaceCounts(collection.name, [], this.#options.samples === true);
    const fresh = { identity, name: collection.name, done: false, position: null, records: 0, bytes: 0, tally };
    this.#readings.set(identity, fresh);
    return fresh;
  }

  /** Most of what an answer leaves lies outside the heap that the runtime looks at. */
  #collect(bytes: number): void {
    this.#uncollected += bytes;
    if (this.#uncollected < COLLECT_BYTES) return;
    this.#uncollected = 0;
    collectGarbage();
  }

  async #tell(): Promise<void> {
    const now = performance.now();
    if (now - this.#reportedAt > REPORT_MS) {
      this.#reportedAt = now;
      const bytes = this.#sum("bytes");
      const of = Math.max(bytes, this.#of);
      const rate = this.#rate.perSecond();
      const eta = rate > 0 ? (of - bytes) / rate : undefined;
      const { size: collections } = this.#readings;
      this.#reporter.progress({ bytes, of, records: this.#sum("records"), collections, rate, eta });
    }
    if (now - this.#savedAt < SAVE_MS) return;
    this.#savedAt = now;
    // Not waited for: what is saved is true up to its positions, and the next save has more.
    this.#saving ??= this.#save().finally(() => {
      this.#saving = undefined;
    });
  }

  /** What cannot be saved is read again by the next run: that is no reason to end this one. */
  async #save(): Promise<void> {
    if (!this.#mayBeSaved) return;
    const { store, auditor } = this.#context;
    try {
      // The events first: then the token is older than every position that is saved with it.
      await this.#watch?.take((events) => this.#written?.add(events));
      this.#mayBeSaved = await saveVerification(store, sealed(this.#doc(), auditor.secret));
      if (!this.#mayBeSaved)
        this.#reporter.note(
          "MongoDB does not permit writing to kek_verifications: this search cannot be resumed later",
        );
    } catch (thrown) {
      if (isTransient(thrown)) return;
      this.#mayBeSaved = false;
      this.#reporter.note(`this search cannot be resumed later: ${messageOf(thrown)}`);
    }
  }

  #doc(): ScanDoc {
    const { version } = this.#options;
    const watch =
      version === undefined || this.#watch === undefined
        ? null
        : { version, token: this.#watch.token, written: this.#written?.rows ?? [] };
    const collections = [...this.#readings.values()].map(({ tally, ...entry }) => ({ ...entry, places: tally.rows }));
    return { _id: "scan", started_at: this.#startedAt, basis: this.#basis, watch, collections };
  }

  #sum(key: "records" | "bytes"): number {
    return [...this.#readings.values()].reduce((total, reading) => total + reading[key], 0);
  }

  /** @param listed what there was when everything in it had been read: what was dropped before holds nothing any more. */
  #report(listed: CollectionInfo[]): Omit<ScanReport, "resumed"> {
    const places = listed.flatMap((collection) => {
      const found = this.#readings.get(identityOf(collection))?.tally.places ?? [];
      return found.map((place) => ({ ...place, collection: collection.name }));
    });
    return {
      places: places.sort(byPlace),
      written: this.#written?.rows ?? [],
      collections: this.#readings.size,
      records: this.#sum("records"),
      bytes: this.#sum("bytes"),
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

/**
 * Keys are destroyed by what a search did not find, and whoever can write to the database could say that all is read: so what is
 * saved carries a mac under the audit secret, and another one is not resumed.
 */
function sealed(doc: ScanDoc, secret: string): ScanDoc & { mac: string } {
  return { ...doc, mac: macOf(doc, secret) };
}

function macOf({ _id, started_at, basis, watch, collections }: ScanDoc, secret: string): string {
  const text = EJSON.stringify(["certautopilot/scan/1", _id, started_at, basis, watch, collections], {
    relaxed: false,
  });
  return createHmac("sha256", secret).update(text).digest("hex");
}

/** What an interrupted search for the same had read, unless keys or the rotation have changed since. */
async function earlierScan(
  { store, auditor }: Context,
  basis: string,
  { version }: ScanOptions,
  reporter: ScanReporter,
): Promise<{ doc: ScanDoc; watch: ChangeWatch | undefined } | undefined> {
  const found = await readVerification(store, "scan");
  if (found === undefined || (found.watch?.version ?? undefined) !== version) return undefined;
  const { mac, ...doc } = found as ScanDoc & { mac?: unknown };
  const began = `an interrupted search of ${rfc3339(doc.started_at)} is not resumed`;
  const expected = Buffer.from(macOf(doc, auditor.secret));
  const given = Buffer.from(String(mac));
  if (given.length !== expected.length || !timingSafeEqual(given, expected))
    reporter.note(`${began}: it was saved under another audit secret, or changed`);
  else if (doc.basis !== basis)
    reporter.note(`${began}: a rotation has moved records, or versions have changed, since`);
  else if ((await serverNow(store)).getTime() - doc.started_at.getTime() > STALE_MS)
    reporter.note(`${began}: it is more than a day old`);
  else {
    const watch = doc.watch === null ? undefined : await ChangeWatch.open(store, doc.watch.token);
    if (doc.watch !== null && watch === undefined)
      reporter.note(`${began}: MongoDB no longer has the changes since then in its oplog`);
    else {
      const records = doc.collections.reduce((total, collection) => total + collection.records, 0);
      reporter.note(`resuming the search of ${rfc3339(doc.started_at)}: ${records} records are read`);
      return { doc, watch };
    }
  }
  return undefined;
}
