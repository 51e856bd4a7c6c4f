import { collectGarbage } from "../config/runtime.ts";
import { exactId, idBsonOf, idTextOf, splitDocuments } from "../envelope/raw_record.ts";
import { rfc3339 } from "../errors/errors.ts";
import { loadVerified } from "../fleet/key_loader.ts";
import type { FieldDoc, VersionDoc } from "../protocol/documents.ts";
import { repairableVersions, type StaleVersion } from "../protocol/stale_envelopes.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { envelopesOf, idsAt } from "../store/rewrap_writes.ts";
import { type KekState, readState } from "../store/state.ts";
import { serverNow } from "../store/store.ts";
import {
  type BadRecord,
  dropVerification,
  readVerification,
  saveVerification,
  type VerificationDoc,
} from "../store/verifications.ts";
import { countVersions } from "../store/version_counts.ts";
import { canaryOf } from "../store/versions.ts";
import type { Context } from "./context.ts";
import { LISTED, type OpeningProgress, VerifyProgress } from "./progress.ts";
import type { BatchResult } from "./rewrap_batch.ts";
import { type RewrapWorker, RewrapWorkers } from "./rewrap_workers.ts";

/** `kek verify --records`: opens every envelope, wrap and payload, in the workers that a rotation uses. Changes no record. */

export interface RecordsReport {
  records: number;
  opened: number;
  failed: number;
  /** The first of those that do not open. */
  bad: BadRecord[];
  /** Envelopes of versions that nothing is at any more: they open, and a rotation to the active version moves them. */
  stale_envelopes: StaleVersion[];
  /** The first of them by name. */
  stale_records: { collection: string; path: string; id: string; version: number }[];
  /** When the run began whose findings these are, if this one went on with it; RFC 3339. */
  resumed: string | null;
}

export interface VerifyRecordsOptions {
  concurrency: number;
  /** Begin at the first record, whatever an earlier run had come to. */
  restart: boolean;
}

export interface RecordsReporter {
  note(message: string): void;
  progress(progress: OpeningProgress): void;
}

const BATCH = 500;
const SAVE_MS = 1000;
const REPORT_MS = 500;
const COLLECT_MS = 4000;
/** A position older than this is not gone on with: what lies before it was read too long ago. */
export const STALE_MS = 24 * 60 * 60 * 1000;

/** @throws KekError `key_missing`, `key_mismatch` when this command lacks the key of a version that records are at. */
export async function verifyRecords(
  context: Context,
  options: VerifyRecordsOptions,
  reporter: RecordsReporter,
): Promise<RecordsReport> {
  const { store, config, install, provider } = context;
  const [state, fields] = await Promise.all([readState(store), readFields(store)]);
  const versionCounts = await countVersions(store, fields);
  const total = versionCounts.reduce((sum, row) => sum + row.count, 0);
  // Without the key of every version that envelopes are at, nothing would be learnt about the records.
  const used = state.versions.filter(
    (doc) => doc.state !== "destroyed" && versionCounts.some((row) => row.version === String(doc._id)),
  );
  for (const doc of used) await loadVerified(provider, install.install_id, doc);
  const earlier = options.restart ? undefined : await goOn(context, basisOf(state), reporter);
  const progress = new VerifyProgress(earlier ?? (await fresh(context, basisOf(state))), total);
  if (earlier !== undefined) {
    const { records, started_at } = earlier;
    reporter.note(
      `resumed at ${records} of ${total} records: a verification that began at ${rfc3339(started_at)} had come so far (--restart begins at the first)`,
    );
  }
  const workers = await RewrapWorkers.open(await provider.recipes(options.concurrency), {
    database: config.database,
    installId: install.install_id,
    keys: used.map((doc: VersionDoc) => ({ version: doc._id, ...canaryOf(doc) })),
    lease: undefined,
  });
  const opener = new Opener(context, workers, progress, reporter);
  try {
    await opener.openAll(fields);
  } finally {
    await workers.close();
  }
  if (opener.mayBeSaved) await dropVerification(store, "records");
  const { records, opened, failed, bad } = progress.doc;
  const resumed = earlier === undefined ? null : rfc3339(earlier.started_at);
  return { records, opened, failed, bad, ...(await namedStrays(context, fields)), resumed };
}

// ---------------------------------------------------------------------------------------------------------------------

class Opener {
  readonly #context: Context;
  readonly #workers: RewrapWorkers;
  readonly #progress: VerifyProgress;
  readonly #reporter: RecordsReporter;
  #mayBeSaved = true;
  #savedAt = performance.now();
  #reportedAt = 0;
  #collectedAt = performance.now();

  constructor(context: Context, workers: RewrapWorkers, progress: VerifyProgress, reporter: RecordsReporter) {
    this.#context = context;
    this.#workers = workers;
    this.#progress = progress;
    this.#reporter = reporter;
  }

  /** Whether MongoDB permits this command to save its position. */
  get mayBeSaved(): boolean {
    return this.#mayBeSaved;
  }

  async openAll(fields: FieldDoc[]): Promise<void> {
    // Asked at the start: whoever cannot save a position must know it before hours of work. A position that is not used is dropped.
    if (this.#progress.doc.records > 0) await this.#save();
    else this.#permitted(await dropVerification(this.#context.store, "records"));
    const { at } = this.#progress.doc;
    // There is one position: the field that an earlier run was in comes before those that were registered since.
    const ordered = [...fields.filter((field) => fieldId(field) === at?.field), ...fields];
    for (const field of ordered) {
      if (this.#progress.doc.done.includes(fieldId(field))) continue;
      await this.#openField(field);
      this.#progress.finished(field);
    }
  }

  /** Batches end in any order and are counted in the order of the records, so that what is saved is true up to its position. */
  async #openField(field: FieldDoc): Promise<void> {
    const flying: { lastId: Uint8Array; result?: BatchResult; ended: Promise<void> }[] = [];
    let failure: unknown;
    const count = () => {
      while (flying[0]?.result !== undefined) {
        const { lastId, result } = flying.shift() as { lastId: Uint8Array; result: BatchResult };
        this.#progress.add(field, result, lastId);
      }
    };
    const after = this.#progress.after(field);
    const position = after === undefined ? undefined : { id: exactId(after) };
    try {
      for await (const { bytes } of envelopesOf(this.#context.store, field, BATCH, position)) {
        const worker = await this.#workers.take();
        if (failure !== undefined) {
          this.#workers.give(worker);
          break;
        }
        const batch: (typeof flying)[number] = { lastId: lastIdOf(bytes), ended: Promise.resolve() };
        flying.push(batch);
        batch.ended = this.#open(worker, field, bytes)
          .then((result) => {
            batch.result = result;
          })
          .catch((thrown) => {
            failure ??= thrown;
          })
          .finally(() => {
            this.#workers.give(worker);
            count();
          });
        await this.#tell();
      }
    } finally {
      await Promise.all(flying.map((batch) => batch.ended));
      count();
    }
    if (failure === undefined) return;
    await this.#save();
    throw failure;
  }

  async #open(worker: RewrapWorker, { collection, path }: FieldDoc, bytes: Uint8Array): Promise<BatchResult> {
    return await worker.run({ kind: "open", field: { collection, path }, bytes });
  }

  async #tell(): Promise<void> {
    const now = performance.now();
    if (now - this.#reportedAt > REPORT_MS) {
      this.#reportedAt = now;
      this.#reporter.progress(this.#progress.progress());
    }
    if (now - this.#savedAt > SAVE_MS) await this.#save();
    if (now - this.#collectedAt > COLLECT_MS) {
      this.#collectedAt = now;
      collectGarbage();
    }
  }

  async #save(): Promise<void> {
    this.#savedAt = performance.now();
    if (this.#mayBeSaved) this.#permitted(await saveVerification(this.#context.store, this.#progress.doc));
  }

  #permitted(permitted: boolean): void {
    this.#mayBeSaved = permitted;
    if (!permitted)
      this.#reporter.note(
        "MongoDB does not permit writing to kek_verifications: an interrupted run begins again at the first record",
      );
  }
}

/** What an interrupted run had come to, unless keys or rotation have changed since. */
async function goOn(
  { store }: Context,
  basis: string,
  reporter: RecordsReporter,
): Promise<VerificationDoc | undefined> {
  const doc = await readVerification(store, "records");
  if (doc === undefined) return undefined;
  const began = `an interrupted verification of ${rfc3339(doc.started_at)} is not gone on with`;
  if (doc.basis !== basis) reporter.note(`${began}: a rotation has moved records, or versions have changed, since`);
  else if ((await serverNow(store)).getTime() - doc.started_at.getTime() > STALE_MS)
    reporter.note(`${began}: it is more than a day old`);
  else return doc;
  return undefined;
}

async function fresh({ store }: Context, basis: string): Promise<VerificationDoc> {
  const counts = { records: 0, opened: 0, failed: 0 };
  return { _id: "records", started_at: await serverNow(store), basis, done: [], at: null, ...counts, bad: [] };
}

/** With another one, records before a position may be at keys that the earlier run never tried. */
export function basisOf({ versions, rotation }: KekState): string {
  const states = versions.map((doc) => `${doc._id} ${doc.state}`).join(", ");
  return `epoch ${rotation?.epoch ?? 0}; versions ${states}`;
}

/** Looked for at the end, from the index: what a rotation moves while this runs is no stale envelope. */
async function namedStrays({ store }: Context, fields: FieldDoc[]) {
  const stale_envelopes = repairableVersions(await countVersions(store, fields), await readState(store));
  const named: RecordsReport["stale_records"] = [];
  for (const { field, version } of stale_envelopes) {
    const { collection, path } = fields.find((doc) => fieldId(doc) === field) as FieldDoc;
    for (const raw of await idsAt(store, { collection, path }, version, LISTED - named.length)) {
      named.push({ collection, path, id: idTextOf(idBsonOf(raw)), version });
    }
    if (named.length >= LISTED) break;
  }
  return { stale_envelopes, stale_records: named };
}

function lastIdOf(bytes: Uint8Array): Uint8Array {
  let last: Uint8Array = bytes;
  for (const document of splitDocuments(bytes)) last = document;
  return idBsonOf(last);
}
