import { deserialize } from "bson";
import type { FieldName } from "../config/config.ts";
import { dekAad } from "../envelope/aad.ts";
import { KekError } from "../errors/errors.ts";
import { loadVerified } from "../fleet/key_loader.ts";
import type { VersionDoc } from "../protocol/documents.ts";
import { fieldId } from "../store/fields.ts";
import type { Context } from "./context.ts";
import type { EnvelopePlace, Sample } from "./scan_counts.ts";

/** Finds out what an envelope was sealed for, by trying: it opens at one record, field and collection only. */
export class EnvelopeOrigin {
  readonly #context: Context;
  readonly #versions: VersionDoc[];
  readonly #loaded = new Map<number, boolean>();

  constructor(context: Context, versions: VersionDoc[]) {
    this.#context = context;
    this.#versions = versions;
  }

  /** @returns the first of these fields at which one of the samples opens. */
  async of(place: EnvelopePlace, fields: FieldName[]): Promise<string | null> {
    for (const field of fields) {
      for (const sample of place.samples) {
        if (await this.opens(sample, place.number, field)) return fieldId(field);
      }
    }
    return null;
  }

  /** Whether this host has the version's key: without it nothing is learnt. Also of a version that is destroyed elsewhere. */
  async hasKey(version: number): Promise<boolean> {
    const known = this.#loaded.get(version);
    if (known !== undefined) return known;
    const doc = this.#versions.find(({ _id }) => _id === version);
    const loaded = doc !== undefined && (await this.#verified(doc));
    this.#loaded.set(version, loaded);
    return loaded;
  }

  async opens({ idBson, envelope }: Sample, version: number, { collection, path }: FieldName): Promise<boolean> {
    if (!(await this.hasKey(version))) return false;
    const { provider, install } = this.#context;
    const { wrapped_dek: wrap } = deserialize(envelope, { promoteBuffers: true });
    if (!(wrap instanceof Uint8Array)) return false;
    try {
      const aad = dekAad(install.install_id, provider.name, version, { collection, idBson, path });
      (await provider.unwrap(wrap, aad, version)).fill(0);
      return true;
    } catch (thrown) {
      const DOES_NOT = ["decryption_failed", "envelope_invalid"];
      if (thrown instanceof KekError && DOES_NOT.includes(thrown.code)) return false;
      throw thrown;
    }
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #verified(doc: VersionDoc): Promise<boolean> {
    const { provider, install } = this.#context;
    if (doc.state === "destroyed" && !(await provider.available([doc._id])).includes(doc._id)) return false;
    try {
      await loadVerified(provider, install.install_id, doc);
      return true;
    } catch (thrown) {
      if (thrown instanceof KekError && ["key_missing", "key_mismatch"].includes(thrown.code)) return false;
      throw thrown;
    }
  }
}
