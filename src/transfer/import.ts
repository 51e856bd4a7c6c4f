import type { Config } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError, rfc3339 } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import { becomeMember, type Membership } from "../fleet/join.ts";
import type { ImportDoc } from "../protocol/documents.ts";
import { type AskPin, howToBegin } from "../providers/registry.ts";
import type { Auditor } from "../store/audit_log.ts";
import { readFields, registerField } from "../store/fields.ts";
import { beginImport, completeImport, readImport } from "../store/imports.ts";
import { readInstall } from "../store/install.ts";
import type { Store } from "../store/store.ts";
import { countVersions } from "../store/version_counts.ts";
import { isEmpty } from "../store/whole_records.ts";
import type { Contents, Header, Trailer } from "./archive_format.ts";
import { type Archive, archiveKey, openArchive } from "./archive_reader.ts";
import { betweenBatches } from "./between_batches.ts";
import { ContentsDigest, differences } from "./contents_digest.ts";
import { verifyContents } from "./import_verification.ts";
import { secretsOf } from "./plain_record.ts";
import { RecordSealer } from "./record_sealer.ts";
import { figuresOf, pathsOf, type TransferReporter } from "./reporter.ts";
import type { FileKey, Unseal } from "./sealed_stream.ts";

/**
 * `import`: an archive's records into a fresh install, their secrets sealed again by a process of its fleet, then read back and
 * compared. What an interrupted run has done is found in the records themselves.
 */

/** The install that secrets are carried to. */
export interface Destination {
  store: Store;
  config: Config;
  auditor: Auditor;
  log: Log;
  askPin: AskPin;
}

export interface ImportOptions {
  file: string;
  unseal: Unseal;
  signal: AbortSignal;
}

export interface ImportReport {
  archive_id: string;
  from_install: string;
  install_id: string;
  /** What was read back from MongoDB, opened, and found to be what the archive holds. */
  contents: Contents;
  /** Records that an interrupted run had brought already. */
  there_before: number;
  /** Records that the export had left out. */
  left_out: number;
}

/** @throws KekError `refused`, `not_installed`, `archive_unreadable`, `archive_damaged`, `incomplete`, `cancelled`. */
export async function importSecrets(
  destination: Destination,
  options: ImportOptions,
  reporter: TransferReporter,
): Promise<ImportReport> {
  const key = await archiveKey(options.file, options.unseal);
  try {
    const { header, trailer } = await checkArchive(options, key, reporter);
    await checkFresh(destination.store, destination.config, header);
    const archive = await openArchive(options.file, key);
    try {
      return await bringAndProve(destination, options, archive, trailer, reporter);
    } finally {
      await archive.close();
    }
  } finally {
    key.fill(0);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Reads the whole archive once: what is cut short or changed is found before anything is written. */
async function checkArchive(
  { file, signal }: ImportOptions,
  key: FileKey,
  reporter: TransferReporter,
): Promise<{ header: Header; trailer: Trailer }> {
  const archive = await openArchive(file, key);
  try {
    const { header } = archive;
    const digest = new ContentsDigest(header);
    const batches = archive.batches();
    let done = 0;
    for (;;) {
      betweenBatches(signal);
      const next = await batches.next();
      if (next.done === true) {
        const differing = differences(digest.contents, next.value);
        if (differing.length > 0) throw notWhole(file, differing);
        return { header, trailer: next.value };
      }
      const { collection, records } = next.value;
      try {
        if (!header.collections.includes(collection)) throw notWhole(file, [`${collection} is not in its header`]);
        const paths = pathsOf(header, collection);
        for (const record of records) {
          const { idBson, secrets } = secretsOf(record, paths);
          digest.add(collection, record, idBson, secrets);
        }
      } finally {
        next.value.wipe();
      }
      done += records.length;
      reporter.progress({ doing: "checking the archive", done, of: done });
    }
  } finally {
    await archive.close();
  }
}

/** @throws KekError unless nothing is here, or what an interrupted import of this archive has brought. */
async function checkFresh(store: Store, config: Config, header: Header): Promise<void> {
  const { name } = config.database;
  const install = await readInstall(store);
  if (install === undefined) {
    throw new KekError(
      "not_installed",
      `database "${name}" holds no install: kek_install is empty`,
      `install first, then import: ${howToBegin(config.encryption.provider)}`,
    );
  }
  if (install.install_id === header.install_id) {
    throw new KekError(
      "refused",
      `database "${name}" holds the very install that this archive was exported from`,
      "set CERTAUTOPILOT_DATABASE_NAME, or the URI, to the fresh install's",
    );
  }
  const earlier = await readImport(store);
  if (earlier !== undefined) {
    if (earlier.archive_id === header.archive_id && earlier.state === "running") return;
    throw inTheWay(earlier, header);
  }
  const versionCounts = await countVersions(store, await readFields(store));
  const held = versionCounts.reduce((sum, { count }) => sum + count, 0);
  if (held > 0) throw notFresh(`database "${name}" holds ${held === 1 ? "1 secret" : `${held} secrets`} already`);
  for (const collection of header.collections) {
    if (!(await isEmpty(store, collection))) throw notFresh(`collection ${collection} holds records already`);
  }
}

/** As a process of the fleet: a rotation that begins meanwhile waits for it, and what it seals is what the fleet may write. */
async function bringAndProve(
  { store, config, auditor, log, askPin }: Destination,
  options: ImportOptions,
  archive: Archive,
  trailer: Trailer,
  reporter: TransferReporter,
): Promise<ImportReport> {
  const { header } = archive;
  const member = await becomeMember(config, { role: "worker", log, askPin });
  try {
    for (const field of header.fields) await registerField(store, field, config.instanceName);
    if (import.meta.crashPoints) crashPoint("import.registered");
    const identity = { archive_id: header.archive_id, from_install: header.install_id };
    // Since it was looked for, another run may have begun, or come to its end.
    const other = await beginImport(store, auditor, identity, { ...identity, file: options.file });
    if (other !== undefined) throw inTheWay(other, header);
    const there_before = await bringAll(member, archive, options, reporter, recordsIn(trailer));
    const contents = await verifyContents(member, header, options.signal, reporter);
    const differing = differences(contents, trailer);
    if (differing.length > 0) throw notTheSame(differing);
    if (import.meta.crashPoints) crashPoint("import.verified");
    await completeImport(store, auditor, header.archive_id, { ...identity, ...figuresOf(contents) });
    const { install_id } = member.install;
    return { ...identity, install_id, contents, there_before, left_out: trailer.left_out };
  } finally {
    await member.encryption.close();
  }
}

/** @returns how many records were there already. */
async function bringAll(
  member: Membership,
  archive: Archive,
  { signal }: ImportOptions,
  reporter: TransferReporter,
  of: number,
): Promise<number> {
  let done = 0;
  let thereBefore = 0;
  for await (const batch of archive.batches()) {
    try {
      betweenBatches(signal);
      const sealer = new RecordSealer(member, batch.collection, pathsOf(archive.header, batch.collection));
      thereBefore += await sealer.bring(batch.records);
      if (import.meta.crashPoints) crashPoint("import.inserted");
    } finally {
      batch.wipe();
    }
    done += batch.records.length;
    reporter.progress({ doing: "importing", done, of });
  }
  return thereBefore;
}

function recordsIn({ collections }: Contents): number {
  return collections.reduce((sum, { records }) => sum + records, 0);
}

function notFresh(what: string): KekError {
  return new KekError(
    "refused",
    `${what}: an archive is imported into a fresh install only`,
    "import into a database of its own that nothing was written to since it was installed",
  );
}

function inTheWay(earlier: ImportDoc, { archive_id }: Header): KekError {
  if (earlier.archive_id !== archive_id) {
    return new KekError(
      "refused",
      "the import of another archive was begun in this database",
      "go on with that one, or drop this database, install again and import this one",
    );
  }
  return new KekError(
    "refused",
    `this archive was imported already, on ${rfc3339(earlier.completed_at ?? earlier.started_at)}: nothing is left to do`,
    "open every record once more with: certautopilot kek verify --records",
  );
}

function notWhole(file: string, differing: string[]): KekError {
  return new KekError(
    "archive_damaged",
    `${file} does not hold what its end says: ${differing.join("; ")}`,
    "export again: the old install is as it was, and nothing was written here",
  );
}

function notTheSame(differing: string[]): KekError {
  return new KekError(
    "incomplete",
    `what is in MongoDB is not what the archive holds: ${differing.join("; ")}`,
    "stop what writes to these collections, and run the same command again: it names the first record that is another",
  );
}
