import { messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import { type Auditor, note } from "../store/audit_log.ts";
import type { RotationDoc } from "../store/documents.ts";
import { readFields } from "../store/fields.ts";
import { fenceRecorder } from "../store/rotation_records.ts";
import type { KekState } from "../store/state.ts";
import { isOpen } from "../store/state_rules.ts";
import type { Store } from "../store/store.ts";
import { maySetValidator, readValidators, thawOptions } from "../store/validators.ts";
import { clauseOf, fenceDrifted } from "./fence.ts";
import { setFence, uncoveredFields } from "./fence_keeper.ts";

/**
 * `collMod` knows no condition, so a coordinator that woke late may set or lift a fence that no longer fits. Every
 * process compares each validator with the one that the newest rotation expects, puts it back and audits it.
 */
export class FenceGuard {
  readonly #store: Store;
  readonly #auditor: Auditor;
  readonly #log: Log;
  readonly #everyMs: number;
  #lookedAt = Number.NEGATIVE_INFINITY;
  /** A drift is mended when it is seen twice under the same record: the first may be a change under way. */
  #seen: string | undefined;
  /** Collections where MongoDB did not permit it to this process, and when: others may, so it looks on and asks again in a while. */
  readonly #refused = new Map<string, number>();

  constructor(store: Store, auditor: Auditor, log: Log, everyMs: number) {
    this.#store = store;
    this.#auditor = auditor;
    this.#log = log;
    this.#everyMs = everyMs;
  }

  async look(state: KekState): Promise<void> {
    const { rotation } = state;
    const now = performance.now();
    if (rotation === undefined || rotation.fence.versions.length + rotation.fence.collections.length === 0) return;
    if (this.#seen === undefined && now - this.#lookedAt < this.#everyMs) return;
    this.#lookedAt = now;
    try {
      await this.#compare(rotation);
      if (!isOpen(rotation)) await this.#cover(rotation);
    } catch (thrown) {
      this.#log.warn(`validators could not be checked: ${messageOf(thrown)}`);
    }
  }

  /** Fields that were registered since the fence was set are fenced too. */
  async #cover(rotation: RotationDoc): Promise<void> {
    if (rotation.fence.versions.length === 0) return;
    const uncovered = uncoveredFields(await readFields(this.#store), rotation.fence).map(
      ({ collection }) => collection,
    );
    if ((await this.#permitted(rotation, uncovered)).length > 0) await this.#set(rotation);
  }

  async #compare(rotation: RotationDoc): Promise<void> {
    const { _id, fence } = rotation;
    const live = await readValidators(
      this.#store,
      fence.collections.map((entry) => entry.collection),
    );
    const drifted = fence.collections.filter((entry) => {
      const options = live.get(entry.collection);
      return options !== undefined && fenceDrifted(options, thawOptions(entry.expected));
    });
    const record = drifted.length === 0 ? undefined : JSON.stringify([_id, fence]);
    const again = record !== undefined && record === this.#seen;
    this.#seen = record;
    if (!again) return;
    this.#seen = undefined;
    const names = drifted.map(({ collection }) => collection);
    const mine = await this.#permitted(rotation, names);
    const unfenced = mine.length === 0 ? undefined : await this.#set(rotation);
    if (unfenced === undefined) return;
    for (const collection of mine.filter((name) => !unfenced.includes(name))) {
      await note(this.#store, this.#auditor, "fence.mended", { rotation: _id, collection });
      this.#log.warn(`the validator of ${collection} had been changed: put back`);
    }
  }

  /**
   * Brings every validator in line with the record, keeping what its owner made of the collection's own rules.
   * @returns the collections that it could not be done for; undefined when nothing was done.
   */
  async #set(rotation: RotationDoc): Promise<string[] | undefined> {
    const fields = await readFields(this.#store);
    const { fence } = rotation;
    const recorder = fenceRecorder(this.#store, this.#auditor, rotation);
    const outcome = await setFence(this.#store, fields, fence, fence.versions, recorder, (message) =>
      this.#log.info(message),
    );
    for (const { collection, reason } of outcome?.unfenced ?? []) {
      this.#log.warn(`${collection} is not fenced: ${reason}`);
    }
    return outcome?.unfenced.map(({ collection }) => collection);
  }

  /**
   * Those that this process may see to. Where MongoDB does not permit it to this one it may to others: the record is left to them,
   * unless it shows that nobody could fence anything.
   */
  async #permitted(rotation: RotationDoc, collections: string[]): Promise<string[]> {
    const fenced = rotation.fence.collections.some(({ expected }) => clauseOf(thawOptions(expected).validator));
    if (!fenced) return collections;
    const permitted: string[] = [];
    for (const collection of new Set(collections)) {
      const refusedAt = this.#refused.get(collection);
      if (refusedAt !== undefined && performance.now() - refusedAt < ASK_AGAIN_MS) continue;
      if (await maySetValidator(this.#store, collection)) permitted.push(collection);
      else {
        this.#refused.set(collection, performance.now());
        this.#log.warn(`${collection} is not fenced: MongoDB does not permit collMod to this process`);
      }
    }
    return permitted;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const ASK_AGAIN_MS = 600_000;
