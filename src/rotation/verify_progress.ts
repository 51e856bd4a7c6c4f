import { Binary } from "bson";
import type { FieldName } from "../config/config.ts";
import { fieldId } from "../store/fields.ts";
import type { BadRecord, VerificationDoc } from "../store/verifications.ts";
import { RecentRate } from "./recent_rate.ts";
import type { BatchResult } from "./rewrap_batch.ts";

/** So many bad records are listed by name; the rest are counted. */
export const LISTED = 1000;

export interface OpeningProgress {
  records: number;
  /** How many there were when it began. */
  of: number;
  failed: number;
  /** Records a second over the last seconds. */
  rate: number;
  /** Seconds left, when it can be told. */
  eta: number | undefined;
}

/** What a verification has found, batch after batch in the order of the records: at any moment it is true up to its position. */
export class VerifyProgress {
  readonly #doc: VerificationDoc;
  readonly #of: number;
  readonly #rate = new RecentRate();

  constructor(doc: VerificationDoc, of: number) {
    this.#doc = doc;
    this.#of = of;
  }

  /** As it is to be stored. */
  get doc(): VerificationDoc {
    return this.#doc;
  }

  /** @param lastId the raw BSON of `{_id}` of the batch's last record. */
  add({ collection, path }: FieldName, { done, failed }: BatchResult, lastId: Uint8Array): void {
    const doc = this.#doc;
    doc.at = { field: fieldId({ collection, path }), after: new Binary(lastId, 0) };
    doc.records += done + failed.length;
    doc.opened += done;
    doc.failed += failed.length;
    const room = LISTED - doc.bad.length;
    doc.bad.push(...failed.slice(0, room).map(({ id, reason }): BadRecord => ({ collection, path, id, reason })));
    this.#rate.add(done + failed.length);
  }

  finished(field: FieldName): void {
    this.#doc.done.push(fieldId(field));
    this.#doc.at = null;
  }

  /** Where to go on in a field: undefined at its beginning. */
  after(field: FieldName): Uint8Array | undefined {
    const { at } = this.#doc;
    return at?.field === fieldId(field) ? at.after.value() : undefined;
  }

  progress(): OpeningProgress {
    const { records, failed } = this.#doc;
    const rate = this.#rate.perSecond();
    const of = Math.max(records, this.#of);
    return { records, of, failed, rate, eta: rate > 0 ? (of - records) / rate : undefined };
  }
}
