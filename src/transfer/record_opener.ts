import type { FieldName } from "../config/config.ts";
import { dekAad, type Place } from "../envelope/aad.ts";
import { readEnvelope } from "../envelope/envelope.ts";
import { openField } from "../envelope/field_cipher.ts";
import { exactId, idBsonOf } from "../envelope/raw_record.ts";
import { isRecordError } from "../envelope/record_fault.ts";
import { loadVerified } from "../fleet/key_loader.ts";
import { OnDemandKeys } from "../fleet/on_demand_keys.ts";
import { inOrder } from "../library/batch.ts";
import type { InstallDoc } from "../protocol/documents.ts";
import type { Provider } from "../providers/provider.ts";
import type { Store } from "../store/store.ts";
import { countVersions } from "../store/version_counts.ts";
import { readVersions } from "../store/versions.ts";
import { recordsById } from "../store/whole_records.ts";
import { type BadRecord, badRecord, type OpenedRecord, openRecord, wipe } from "./open_record.ts";

/** An install's records, opened with its keys by one who is no process of its fleet: nothing is written, nobody waits for it. */

/** What became of a record, and the bytes it was read as. */
export type Result = { raw: Uint8Array; opened: OpenedRecord } | { raw: Uint8Array; bad: BadRecord } | "gone";

export class RecordOpener {
  readonly #store: Store;
  readonly #provider: Provider;
  readonly #installId: string;
  readonly #keys: OnDemandKeys;

  private constructor(store: Store, provider: Provider, installId: string) {
    this.#store = store;
    this.#provider = provider;
    this.#installId = installId;
    this.#keys = new OnDemandKeys(store, provider, installId);
  }

  /**
   * With the keys of every version that envelopes are at, in an open rotation of both.
   * @throws KekError `key_missing`, `key_mismatch` when one of them is not here.
   */
  static async over(
    { store, provider, install }: { store: Store; provider: Provider; install: InstallDoc },
    fields: FieldName[],
  ): Promise<RecordOpener> {
    const versionCounts = await countVersions(store, fields);
    const used = (await readVersions(store)).filter(
      ({ _id, state }) => state !== "destroyed" && versionCounts.some(({ version }) => version === String(_id)),
    );
    for (const doc of used) await loadVerified(provider, install.install_id, doc);
    return new RecordOpener(store, provider, install.install_id);
  }

  /** @throws KekError when a key cannot be had: that says nothing about a record. */
  async openAll(collection: string, paths: readonly string[], records: readonly Uint8Array[]): Promise<Result[]> {
    const failures: unknown[] = [];
    const results = await inOrder(records, async (raw): Promise<Result> => {
      try {
        return await this.#open(collection, paths, raw);
      } catch (thrown) {
        failures.push(thrown);
        return "gone";
      }
    });
    if (failures.length === 0) return results;
    for (const result of results) if (result !== "gone" && "opened" in result) wipe(result.opened);
    throw failures[0];
  }

  // -------------------------------------------------------------------------------------------------------------------

  /** A record that does not open may have been read before a rotation that is over: it is read once more. */
  async #open(collection: string, paths: readonly string[], raw: Uint8Array): Promise<Result> {
    const first = await this.#openAsItIs(collection, paths, raw);
    if (!("bad" in first)) return first;
    const again = await this.#readAgain(collection, raw);
    if (again === undefined) return "gone";
    return Buffer.compare(again, raw) === 0 ? first : await this.#openAsItIs(collection, paths, again);
  }

  async #openAsItIs(collection: string, paths: readonly string[], raw: Uint8Array): Promise<Exclude<Result, "gone">> {
    try {
      return { raw, opened: await openRecord(raw, collection, paths, (stored, place) => this.#unseal(stored, place)) };
    } catch (thrown) {
      if (isRecordError(thrown)) return { raw, bad: badRecord(collection, raw, thrown) };
      throw thrown;
    }
  }

  /** @returns the same bytes where MongoDB cannot be asked for them. */
  async #readAgain(collection: string, raw: Uint8Array): Promise<Uint8Array | undefined> {
    let id: unknown;
    try {
      id = exactId(idBsonOf(raw));
    } catch {
      return raw;
    }
    return (await recordsById(this.#store, collection, [id]))[0];
  }

  async #unseal(stored: unknown, place: Place) {
    const envelope = readEnvelope(stored, this.#provider.name);
    const aad = dekAad(this.#installId, envelope.provider, envelope.version, place);
    const dek = await this.#keys.unwrap(envelope.wrappedDek, aad, envelope.version);
    try {
      return openField(dek, envelope, this.#installId, place);
    } finally {
      dek.fill(0);
    }
  }
}
