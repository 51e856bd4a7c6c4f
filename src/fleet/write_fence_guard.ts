import { messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { FenceRecord, FieldDoc, RotationDoc, ValidatorOptions } from "../protocol/documents.ts";
import { keyPolicyOf } from "../protocol/key_policy.ts";
import { isOpen } from "../protocol/phases.ts";
import { namesOthers, writeFenceDrifted, writeFenceIn } from "../protocol/write_fence.ts";
import { type Auditor, note } from "../store/audit_log.ts";
import { readFields } from "../store/fields.ts";
import { fenceRecorder } from "../store/rotation_records.ts";
import type { KekState } from "../store/state.ts";
import type { Store } from "../store/store.ts";
import { maySetValidator, readValidators, thawOptions } from "../store/validators.ts";
import {
  rejectedWriteVersion,
  rejectingCollections,
  rejectionText,
  setWriteFence,
  uncoveredFields,
} from "./write_fence_setter.ts";

/**
 * `collMod` knows no condition, so a coordinator that woke late may set or lift a fence that no longer fits, and a restored
 * record may be older than the validators. Every process compares each validator with what the newest rotation expects, puts
 * it right and audits it. Without a rotation there is no record to go by: then it only says what MongoDB rejects.
 */
export class WriteFenceGuard {
  readonly #store: Store;
  readonly #auditor: Auditor;
  readonly #log: Log;
  readonly #everyMs: number;
  #lookedAt = Number.NEGATIVE_INFINITY;
  /** A drift is repaired when it is seen twice under the same record: the first may be a change under way. */
  #seen: string | undefined;
  /** Collections where MongoDB did not permit it to this process, and when: others may, so it looks on and asks again in a while. */
  readonly #refused = new Map<string, number>();
  /** Collections that rejected the version that was written, at the last look: the first may be a change under way. */
  #rejecting: readonly string[] = [];
  #toldAt = Number.NEGATIVE_INFINITY;

  constructor(store: Store, auditor: Auditor, log: Log, everyMs: number) {
    this.#store = store;
    this.#auditor = auditor;
    this.#log = log;
    this.#everyMs = everyMs;
  }

  async look(state: KekState): Promise<void> {
    const { rotation } = state;
    const now = performance.now();
    if (this.#seen === undefined && now - this.#lookedAt < this.#everyMs) return;
    this.#lookedAt = now;
    try {
      const fields = await readFields(this.#store);
      const recorded = rotation?.fence.collections.map(({ collection }) => collection) ?? [];
      const names = [...new Set([...fields.map(({ collection }) => collection), ...recorded])];
      if (names.length === 0) return;
      const live = await readValidators(this.#store, names);
      if (rotation !== undefined) await this.#compare(rotation, live);
      if (rotation !== undefined && !isOpen(rotation)) await this.#cover(rotation, fields);
      await this.#tellRejecting(state, fields, live);
    } catch (thrown) {
      this.#log.warn(`validators could not be checked: ${messageOf(thrown)}`);
    }
  }

  /** Fields that were registered since the fence was set are fenced too. */
  async #cover(rotation: RotationDoc, fields: FieldDoc[]): Promise<void> {
    const { fence } = rotation;
    if (fence.versions.length === 0) return;
    const uncovered = uncoveredFields(fields, fence).map(({ collection }) => collection);
    // Where the record shows that nobody could fence anything, it is to name these collections too.
    const fenced = fence.collections.some(({ expected }) => writeFenceIn(thawOptions(expected).validator));
    const mine = fenced ? await this.#permitted(uncovered, () => NOT_FENCED) : uncovered;
    if (mine.length > 0) await this.#set(rotation);
  }

  async #compare(rotation: RotationDoc, live: Map<string, ValidatorOptions>): Promise<void> {
    const { _id, fence } = rotation;
    const drifted = [...live].filter(([name, options]) => drifts(name, options, fence)).map(([name]) => name);
    const record = drifted.length === 0 ? undefined : JSON.stringify([_id, fence, drifted]);
    const again = record !== undefined && record === this.#seen;
    this.#seen = record;
    if (!again) return;
    this.#seen = undefined;
    const outdated = (name: string) => namesOthers(live.get(name) ?? {}, fence.versions);
    const mine = await this.#permitted(drifted, (name) => (outdated(name) ? OUTDATED : NOT_FENCED));
    const changed = mine.length === 0 ? undefined : await this.#set(rotation);
    if (changed === undefined) return;
    for (const collection of mine.filter((name) => changed.includes(name))) {
      await note(this.#store, this.#auditor, "fence.mended", { rotation: _id, collection });
      this.#log.warn(`the validator of ${collection} had been changed: put back`);
    }
  }

  /** What MongoDB rejects of the version that is written now, and this process has not put right. */
  async #tellRejecting(state: KekState, fields: FieldDoc[], live: Map<string, ValidatorOptions>): Promise<void> {
    const { versions, rotation } = state;
    const write = keyPolicyOf(versions, rotation)?.write;
    const before = this.#rejecting;
    this.#rejecting = [];
    const database = this.#store.db.databaseName;
    if (write === undefined || rejectingCollections({ database, live, fields, version: write }).length === 0) return;
    // The look may have put it right.
    const rejecting = await rejectedWriteVersion(this.#store, fields, write, rotation?.fence);
    this.#rejecting = rejecting.map(({ collection }) => collection);
    const lasting = rejecting.filter(({ collection }) => before.includes(collection));
    if (lasting.length === 0 || performance.now() - this.#toldAt < ASK_AGAIN_MS) return;
    this.#toldAt = performance.now();
    const { message, hint } = rejectionText(write, lasting, rotation !== undefined);
    this.#log.warn(`${message}; ${hint}`);
  }

  /**
   * Brings every validator in line with the record, keeping what its owner made of the collection's own rules.
   * @returns the collections whose validator it changed; undefined when nothing was done.
   */
  async #set(rotation: RotationDoc): Promise<string[] | undefined> {
    const fields = await readFields(this.#store);
    const { fence } = rotation;
    const recorder = fenceRecorder(this.#store, this.#auditor, rotation);
    const outcome = await setWriteFence(this.#store, {
      fields,
      before: fence,
      versions: fence.versions,
      recorder,
      tell: (message) => this.#log.info(message),
    });
    for (const { collection, reason } of outcome?.unfenced ?? []) {
      this.#log.warn(`${collection} is not fenced: ${reason}`);
    }
    return outcome?.changed;
  }

  /**
   * Those where MongoDB permits it to this process. It may permit it to others, so the rest is left to them.
   * @param state what a collection is until then.
   */
  async #permitted(collections: string[], state: (collection: string) => string): Promise<string[]> {
    const permitted: string[] = [];
    for (const collection of new Set(collections)) {
      const refusedAt = this.#refused.get(collection);
      if (refusedAt !== undefined && performance.now() - refusedAt < ASK_AGAIN_MS) continue;
      if (await maySetValidator(this.#store, collection)) permitted.push(collection);
      else {
        this.#refused.set(collection, performance.now());
        this.#log.warn(`${collection} ${state(collection)}: MongoDB does not permit collMod to this process`);
      }
    }
    return permitted;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const ASK_AGAIN_MS = 600_000;
const NOT_FENCED = "is not fenced";
const OUTDATED = "rejects KEK versions that the newest rotation does not";

/** A collection that the record does not name may carry a clause from later than the record, and is covered later. Pure. */
function drifts(name: string, live: ValidatorOptions, { versions, collections }: FenceRecord): boolean {
  const entry = collections.find(({ collection }) => collection === name);
  if (entry !== undefined && writeFenceDrifted(live, thawOptions(entry.expected))) return true;
  return namesOthers(live, versions);
}
