import { randomBytes, randomUUID } from "node:crypto";
import type { Config, FieldName } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import type { InstallDoc } from "../protocol/documents.ts";
import { memberName } from "../protocol/member.ts";
import type { Provider } from "../providers/provider.ts";
import { type Auditor, note } from "../store/audit_log.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { readRoster } from "../store/heartbeats.ts";
import { type Store, serverNow } from "../store/store.ts";
import { aboutCount, allRecords, indexesOfTheirOwn } from "../store/whole_records.ts";
import { type Contents, encodeHeader, encodeTrailer, type Header, recordEncoder } from "./archive_format.ts";
import { betweenBatches } from "./between_batches.ts";
import { CollectionSnapshot, type RecordChanges } from "./collection_snapshot.ts";
import { ContentsDigest } from "./contents_digest.ts";
import { type BadRecord, wipe } from "./open_record.ts";
import { PrivateFile } from "./private_file.ts";
import { RecordOpener } from "./record_opener.ts";
import { figuresOf, pathsOf, type TransferReporter } from "./reporter.ts";
import { type Seal, sealed } from "./sealed_stream.ts";

/** `export`: every record of the collections that hold secrets, the secrets decrypted, into one archive. Changes no record. */

/** The install that secrets are carried away from. */
export interface Origin {
  store: Store;
  config: Config;
  install: InstallDoc;
  provider: Provider;
  auditor: Auditor;
}

export interface ExportOptions {
  file: string;
  seal: Seal;
  /** Leave records out that do not open, and name them, instead of writing no archive. */
  skipBroken: boolean;
  /** Keep the archive although records were written while it was made. */
  allowChanges: boolean;
  signal: AbortSignal;
}

export interface ExportReport {
  archive_id: string;
  install_id: string;
  /** Undefined when there is none: see `failed` and `changes`. */
  file: string | undefined;
  contents: Contents;
  /** Records that do not open; the first of them by name. */
  failed: number;
  bad: BadRecord[];
  /** What was written meanwhile; undefined when it did not come to that. */
  changes: RecordChanges | undefined;
  /** Indexes of the application, which no archive carries. */
  indexes: { collection: string; names: string[] }[];
}

/** So many records are listed by name; the rest are counted. */
const LISTED = 1000;

/** @throws KekError `archive_unwritable`, `key_missing` and what else the provider lacks, `cancelled`. */
export async function exportSecrets(
  origin: Origin,
  options: ExportOptions,
  reporter: TransferReporter,
): Promise<ExportReport> {
  const run = await ExportRun.prepare(origin, options, reporter);
  const file = await PrivateFile.create(options.file);
  try {
    return await run.write(file);
  } finally {
    await file.discard();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

class ExportRun {
  readonly #origin: Origin;
  readonly #options: ExportOptions;
  readonly #reporter: TransferReporter;
  readonly #header: Header;
  readonly #opener: RecordOpener;
  readonly #digest: ContentsDigest;
  readonly #firstLooks = new Map<string, CollectionSnapshot>();
  readonly #bad: BadRecord[] = [];
  #failed = 0;
  #done = 0;
  #of = 0;

  private constructor({
    origin,
    options,
    reporter,
    header,
    opener,
  }: { origin: Origin; options: ExportOptions; reporter: TransferReporter; header: Header; opener: RecordOpener }) {
    this.#origin = origin;
    this.#options = options;
    this.#reporter = reporter;
    this.#header = header;
    this.#opener = opener;
    this.#digest = new ContentsDigest(header);
  }

  /** Everything that can be found out before anybody is told that secrets leave. */
  static async prepare(origin: Origin, options: ExportOptions, reporter: TransferReporter): Promise<ExportRun> {
    const { store, install, auditor } = origin;
    const fields: FieldName[] = (await readFields(store)).map(({ collection, path }) => ({ collection, path }));
    if (fields.length === 0) {
      throw new KekError(
        "refused",
        "no field of this install holds secrets: kek_fields is empty",
        "set CERTAUTOPILOT_DATABASE_NAME to the right database; or there is nothing to carry over",
      );
    }
    const opener = await RecordOpener.over(origin, fields);
    const header: Header = {
      archive_id: randomUUID(),
      install_id: install.install_id,
      provider: install.provider,
      exported_at: await serverNow(store),
      exported_by: auditor.actor,
      digest_key: randomBytes(32),
      fields,
      collections: [...new Set(fields.map(({ collection }) => collection))],
    };
    return new ExportRun({ origin, options, reporter, header, opener });
  }

  async write(file: PrivateFile): Promise<ExportReport> {
    const { store, auditor } = this.#origin;
    const { archive_id, fields, collections } = this.#header;
    await this.#warnOfWriters();
    for (const collection of collections) this.#of += await aboutCount(store, collection);
    const { seal } = this.#options;
    const told = {
      archive_id,
      file: this.#options.file,
      sealed_to: "passphrase" in seal ? "a passphrase" : seal.recipients,
    };
    await note(store, auditor, "secrets.export_started", { ...told, fields: fields.map(fieldId) });
    if (import.meta.crashPoints) crashPoint("export.told");
    for await (const piece of sealed(this.#pieces(), seal)) await file.write(piece);
    await file.sync();
    if (import.meta.crashPoints) crashPoint("export.sealed");
    const report = await this.#report();
    if (!this.#complete) return report;
    report.changes = await this.#secondLook();
    if (anyOf(report.changes) && !this.#options.allowChanges) return report;
    await note(store, auditor, "secrets.exported", {
      ...told,
      ...figuresOf(report.contents),
      left_out: this.#failed,
      ...report.changes,
    });
    if (import.meta.crashPoints) crashPoint("export.exported");
    await file.place();
    if (import.meta.crashPoints) crashPoint("export.named");
    return { ...report, file: this.#options.file };
  }

  /** Whether every record is in the archive that is to be. */
  get #complete(): boolean {
    return this.#failed === 0 || this.#options.skipBroken;
  }

  async #report(): Promise<ExportReport> {
    const { archive_id, install_id, collections } = this.#header;
    const indexes: ExportReport["indexes"] = [];
    for (const collection of collections) {
      const names = await indexesOfTheirOwn(this.#origin.store, collection);
      if (names.length > 0) indexes.push({ collection, names });
    }
    const found = { contents: this.#digest.contents, failed: this.#failed, bad: this.#bad };
    return { archive_id, install_id, file: undefined, ...found, changes: undefined, indexes };
  }

  /** The archive's plaintext. Once a record has failed nothing more is written, but the rest is looked at, to name them all. */
  async *#pieces(): AsyncGenerator<Uint8Array> {
    yield encodeHeader(this.#header);
    for (const collection of this.#header.collections) {
      const encode = recordEncoder(collection);
      const paths = pathsOf(this.#header, collection);
      const firstLook = new CollectionSnapshot(paths, this.#origin.install.provider);
      this.#firstLooks.set(collection, firstLook);
      for await (const records of allRecords(this.#origin.store, collection)) {
        betweenBatches(this.#options.signal);
        const frames: Uint8Array[] = [];
        for (const result of await this.#opener.openAll(collection, paths, records)) {
          if (result === "gone") continue;
          firstLook.add(result.raw);
          if ("bad" in result) {
            this.#failed += 1;
            if (this.#bad.length < LISTED) this.#bad.push(result.bad);
            continue;
          }
          const { plain, idBson, secrets } = result.opened;
          if (this.#complete) {
            this.#digest.add(collection, plain, idBson, secrets);
            frames.push(encode(plain));
          }
          wipe(result.opened);
        }
        if (frames.length > 0) yield joined(frames);
        this.#done += records.length;
        this.#reporter.progress({ doing: "exporting", done: this.#done, of: Math.max(this.#of, this.#done) });
      }
    }
    if (this.#complete) yield encodeTrailer({ ...this.#digest.contents, left_out: this.#failed });
  }

  /** Whoever writes while records are read, writes what the archive may not hold. */
  async #secondLook(): Promise<RecordChanges> {
    const sum: RecordChanges = { changed: 0, added: 0, removed: 0 };
    let done = 0;
    for (const [collection, firstLook] of this.#firstLooks) {
      const found = await firstLook.compare(allRecords(this.#origin.store, collection), (records) => {
        betweenBatches(this.#options.signal);
        done += records;
        this.#reporter.progress({ doing: "looking for changes", done, of: Math.max(this.#done, done) });
      });
      sum.changed += found.changed;
      sum.added += found.added;
      sum.removed += found.removed;
    }
    return sum;
  }

  async #warnOfWriters(): Promise<void> {
    const { store, config } = this.#origin;
    const alive = (await readRoster(store)).filter(({ age_ms }) => age_ms < config.fleet.evictionMs);
    if (alive.length === 0) return;
    const who = alive.slice(0, NAMED).map(memberName).join(", ");
    const more = alive.length > NAMED ? ` and ${alive.length - NAMED} more` : "";
    this.#reporter.warn(
      `${alive.length === 1 ? "1 process is" : `${alive.length} processes are`} in the fleet: ${who}${more}; what they write meanwhile is counted at the end`,
    );
  }
}

const NAMED = 5;

export function anyOf({ changed, added, removed }: RecordChanges): boolean {
  return changed + added + removed > 0;
}

/** One piece, and the frames zeroed. */
function joined(frames: Uint8Array[]): Uint8Array {
  const piece = new Uint8Array(frames.reduce((sum, frame) => sum + frame.length, 0));
  let at = 0;
  for (const frame of frames) {
    piece.set(frame, at);
    at += frame.length;
    frame.fill(0);
  }
  return piece;
}
