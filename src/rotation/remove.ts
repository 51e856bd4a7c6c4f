import { setTimeout as sleep } from "node:timers/promises";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError, rfc3339 } from "../errors/errors.ts";
import { setWriteFence, unfencedCollections } from "../fleet/write_fence_setter.ts";
import type { FieldDoc, RotationDoc, VersionDoc } from "../protocol/documents.ts";
import { memberName } from "../protocol/member.ts";
import { isOpen } from "../protocol/phases.ts";
import { repairOf } from "../protocol/stale_envelopes.ts";
import { isVersion } from "../protocol/version_count.ts";
import { keyCanaryOf } from "../providers/canary.ts";
import type { DestroyOptions } from "../providers/provider.ts";
import { audited } from "../store/audit_log.ts";
import { fieldId, readFields } from "../store/fields.ts";
import { readRoster } from "../store/heartbeats.ts";
import { fenceRecorder } from "../store/rotation_records.ts";
import { newestRotation, rotationHistory } from "../store/rotations.ts";
import { type KekState, readState } from "../store/state.ts";
import type { Session } from "../store/store.ts";
import { countAt, countAtIn, countVersions } from "../store/version_counts.ts";
import { type IndexHint, indexHint } from "../store/version_index.ts";
import { canaryOf, forgetStaged, markDestroyed } from "../store/versions.ts";
import { type Context, lateWriteMs } from "./context.ts";
import { type ScanReport, type ScanReporter, scanDatabase } from "./database_scan.ts";
import { placesAre, placesText } from "./places_text.ts";

/** `kek remove --version=N`: destroys a retired version, forgets a staged one. Refuses while anything could need it. */

export interface Removal {
  version: number;
  outcome: "destroyed" | "forgotten";
  destroyed: string[];
  remaining: string[];
  /** The file that holds a copy of the key, when one was asked for. */
  copy: string | undefined;
  /** What else may hold the key, and this program cannot see. */
  advice: string | undefined;
  /** What was read to be sure that nothing needs the key; undefined when nothing had to be, or `--scan=registered` was given. */
  scanned: ScannedData | undefined;
}

export interface ScannedData {
  collections: number;
  records: number;
  bytes: number;
  seconds: number;
}

/** Which backups need the key of a version that was left. @returns a sentence's part. */
export async function backupsNote({ store }: Context, { _id, retired_at }: VersionDoc): Promise<string> {
  // A repair moves envelopes of a version long after it was retired.
  const ends = (await rotationHistory(store, HISTORY))
    .filter(({ from }) => from === _id)
    .map(({ ended_at }) => ended_at);
  const last = Math.max(...[...ends, retired_at].map((at) => at?.getTime() ?? 0));
  const before = last === 0 ? "from before its rotation" : `made before ${rfc3339(new Date(last))}`;
  return `backups of the database ${before} hold envelopes of KEK version ${_id}: keep a copy of its key as long as you keep them`;
}

/** What removal would do, checked as far as it can be without changing anything. @throws KekError `refused`, `version_unknown`. */
export async function checkRemoval(context: Context, version: number): Promise<VersionDoc> {
  const { store } = context;
  const state = await readState(store);
  const doc = state.versions.find((entry) => entry._id === version);
  if (doc === undefined) {
    throw new KekError(
      "version_unknown",
      `KEK version ${version} is not known`,
      "certautopilot kek status lists the versions",
    );
  }
  if (doc.state === "active") {
    throw new KekError("refused", `KEK version ${version} is the active one`, "rotate to another version first");
  }
  refuseInRotation(state.rotation, version);
  if (doc.state !== "destroyed") await refuseWhileUsed(context, doc, state);
  return doc;
}

export interface RemoveOptions extends DestroyOptions {
  version: number;
  /** `all` reads every collection of the database, `registered` counts the known fields alone. */
  scan: "all" | "registered";
  /** Do not resume an interrupted search. */
  restart: boolean;
}

/**
 * Looks for envelopes of the version everywhere, whatever the list of fields says: without its key they are lost.
 * @returns what was read; undefined where nothing is to be destroyed here.
 * @throws KekError `refused` naming each place with such an envelope, and with one whose version cannot be told.
 */
export async function searchDatabase(
  context: Context,
  { version, scan, restart }: RemoveOptions,
  doc: VersionDoc,
  reporter: ScanReporter,
): Promise<ScanReport | undefined> {
  if (scan === "registered" || doc.state === "staged") return undefined;
  // On another host the version may be destroyed already, and its key still be here.
  if (doc.state === "destroyed" && !(await context.provider.available([version])).includes(version)) return undefined;
  reporter.note(`reading every collection of ${context.store.db.databaseName} for envelopes of KEK version ${version}`);
  const report = await scanDatabase(context, { version, restart }, reporter);
  const needing = [...report.places, ...report.written].filter(({ number }) => number === version);
  if (needing.length > 0) {
    throw new KekError(
      "refused",
      `${placesAre(needing)} at KEK version ${version}: without its key they could not be read`,
      "certautopilot kek verify --discover  names each place and what to do; then run it again",
    );
  }
  const unknown = [...report.places, ...report.written].filter(({ number }) => Number.isNaN(number));
  if (unknown.length > 0) {
    throw new KekError(
      "refused",
      `${placesText(unknown)} have a kek_version that is no number: nobody can say which key they need`,
      "write these values again through the library, or remove them, first",
    );
  }
  return report;
}

/**
 * Marks first, destroys after: once the version is marked no rotation can lead to it, so nobody can need the key that is
 * then destroyed. Run again after a crash, it finishes the destruction.
 */
export async function remove(context: Context, options: RemoveOptions, reporter: ScanReporter): Promise<Removal> {
  const { version } = options;
  const doc = await checkRemoval(context, version);
  const scanned = await searchDatabase(context, options, doc, reporter);
  if (import.meta.crashPoints) crashPoint("remove.searched");
  const { store, auditor, provider, install } = context;
  if (doc.state === "staged") {
    const forgotten = await audited(store, auditor, async (session) => {
      if (await rotationHolds(context, version, session)) return undefined;
      if (!(await forgetStaged(store, session, version))) return undefined;
      if (import.meta.crashPoints) crashPoint("forget.deleted");
      return [{ event: "version.forgotten", data: { version }, result: true }];
    });
    if (forgotten === undefined) throw changed(version);
    if (import.meta.crashPoints) crashPoint("forget.done");
    // Whoever still has the key makes the version known again, with its own bytes, at its next beat.
    const holders = (await readRoster(store)).filter((member) => member.loaded.includes(version));
    const key = await provider.describe(version);
    const kept = key === undefined ? [] : [`the key ${key.label} (id ${key.id}): pkcs11-init would take it up again`];
    return {
      version,
      outcome: "forgotten",
      destroyed: [],
      remaining: [...kept, ...holders.map((member) => `the key held by ${memberName(member)}`)],
      copy: undefined,
      advice: undefined,
      scanned: undefined,
    };
  }
  if (doc.state === "retired") {
    await proveUnreachable(context, version, reporter.note);
    if (import.meta.crashPoints) crashPoint("remove.unreachable");
    const hints = new Map<string, IndexHint>();
    for (const field of await readFields(store)) hints.set(fieldId(field), await indexHint(store, field));
    const destroyed = await audited(store, auditor, async (session) => {
      if (await rotationHolds(context, version, session)) return undefined;
      // In the very moment of the mark, and of the list as it is then: a primary that was replaced since the last count knew less.
      for (const field of await readFields(store, session)) {
        const hint = hints.get(fieldId(field)) ?? { hint: { $natural: 1 } };
        if ((await countAtIn(store, { session, field, version, how: hint })) > 0) return undefined;
      }
      if (!(await markDestroyed(store, session, version))) return undefined;
      if (import.meta.crashPoints) crashPoint("remove.marking");
      return [{ event: "version.destroyed", data: { version }, result: true }];
    });
    if (destroyed === undefined) throw changed(version);
    if (import.meta.crashPoints) crashPoint("remove.marked");
  }
  // On this host the key may still be there, and records may have been restored since another host destroyed it.
  if (doc.state === "destroyed" && (await provider.available([version])).includes(version))
    await refuseIfCounted(context, await readFields(store), version);
  const proof = keyCanaryOf(canaryOf(doc), install.install_id, provider.name, version);
  const outcome = await provider.destroy(version, proof, options);
  const advice = `${await backupsNote(context, doc)}; ${outcome.advice}`;
  return { version, outcome: "destroyed", ...outcome, advice, scanned: scanned && scannedOf(scanned) };
}

// ---------------------------------------------------------------------------------------------------------------------

function scannedOf({ collections, records, bytes, seconds }: ScanReport): ScannedData {
  return { collections, records, bytes, seconds };
}

/** Rotations that are looked at. */
const HISTORY = 1000;

async function rotationHolds(context: Context, version: number, session: Session): Promise<boolean> {
  const open = await newestRotation(context.store, session);
  return open !== undefined && isOpen(open) && (open.from === version || open.to === version);
}

function refuseInRotation(rotation: RotationDoc | undefined, version: number): void {
  if (rotation === undefined || !isOpen(rotation) || (rotation.from !== version && rotation.to !== version)) return;
  throw new KekError(
    "refused",
    `KEK version ${version} is part of the open rotation ${rotation.from} → ${rotation.to}`,
    `finish it first: certautopilot kek rotate --to-version=${rotation.to}`,
  );
}

async function refuseWhileUsed(context: Context, doc: VersionDoc, { versions }: KekState): Promise<void> {
  const version = doc._id;
  const active = versions.find(({ state }) => state === "active")?._id;
  const fields = await readFields(context.store);
  const unknown = (await countVersions(context.store, fields)).find((row) => !isVersion(row));
  if (unknown !== undefined) {
    throw new KekError(
      "refused",
      `${unknown.count} envelopes of ${unknown.field} are at kek_version ${unknown.version}: nobody can say which key they need`,
      repairOf(unknown),
    );
  }
  for (const field of fields) {
    const count = await countAt(context.store, field, version);
    if (count === 0) continue;
    throw new KekError(
      "refused",
      `${count} envelopes of ${fieldId(field)} are at KEK version ${version}: without its key they could not be read`,
      doc.state === "retired" && active !== undefined
        ? `move them to the active version first: certautopilot kek rotate --to-version=${active}`
        : "rotate to another version first: certautopilot kek status",
    );
  }
  if (doc.state === "staged") return;
  const holders = (await readRoster(context.store)).filter((member) => member.loaded.includes(version));
  if (holders.length > 0) {
    throw new KekError(
      "refused",
      `KEK version ${version} is still held by ${holders.map(memberName).join(", ")}`,
      "wait until they have given it up (kek status); one that is gone for good is evicted by the next rotation, or by --evict",
    );
  }
}

/** Last, with nothing between it and the mark: MongoDB rejects the version, and then there is no envelope of it. */
async function proveUnreachable(context: Context, version: number, wait: (message: string) => void): Promise<void> {
  const { store } = context;
  const fields = await readFields(store);
  let unfenced = await unfencedCollections(store, fields, version);
  if (unfenced.length > 0) unfenced = await fenceAgain(context, fields, version, wait);
  if (unfenced.length > 0) {
    const apart = await lateWriteMs(context);
    wait(`no fence on ${unfenced.join(", ")}: the records are counted twice, ${Math.round(apart / 1000)} s apart`);
    await refuseIfCounted(context, fields, version);
    await sleep(apart);
  }
  await refuseIfCounted(context, await readFields(store), version);
}

async function fenceAgain(
  context: Context,
  fields: FieldDoc[],
  version: number,
  tell: (message: string) => void,
): Promise<string[]> {
  const { store, auditor } = context;
  const doc = await newestRotation(store);
  if (doc === undefined || isOpen(doc)) return fields.map((field) => field.collection);
  const versions = [...new Set([...doc.fence.versions, version])].sort((a, b) => a - b);
  await setWriteFence(store, {
    fields,
    before: doc.fence,
    versions,
    recorder: fenceRecorder(store, auditor, doc),
    tell,
  });
  return await unfencedCollections(store, fields, version);
}

async function refuseIfCounted(context: Context, fields: FieldDoc[], version: number): Promise<void> {
  for (const field of fields) {
    const count = await countAt(context.store, field, version);
    if (count > 0)
      throw new KekError(
        "refused",
        `${count} envelopes of ${fieldId(field)} are at KEK version ${version}`,
        "certautopilot kek status",
      );
  }
}

function changed(version: number): KekError {
  return new KekError(
    "refused",
    `the state of KEK version ${version} changed meanwhile; nothing was removed`,
    "look at `certautopilot kek status`, then run it again",
  );
}
