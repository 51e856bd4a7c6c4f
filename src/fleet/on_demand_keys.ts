import { KekError } from "../errors/errors.ts";
import type { Provider } from "../providers/provider.ts";
import type { Store } from "../store/store.ts";
import { readVersions } from "../store/versions.ts";
import { loadVerified } from "./key_loader.ts";

/** Unwraps for one who opens records and is no process of the fleet: a version that a rotation brings meanwhile is loaded then. */
export class OnDemandKeys {
  readonly #store: Store;
  readonly #provider: Provider;
  readonly #installId: string;
  readonly #late = new Map<number, Promise<void>>();

  constructor(store: Store, provider: Provider, installId: string) {
    this.#store = store;
    this.#provider = provider;
    this.#installId = installId;
  }

  /** @throws KekError `envelope_invalid` for a version that is unknown or destroyed, and what the provider meets. */
  async unwrap(wrappedDek: Uint8Array, aad: Uint8Array, version: number): Promise<Uint8Array> {
    try {
      return await this.#provider.unwrap(wrappedDek, aad, version);
    } catch (thrown) {
      if (!(thrown instanceof KekError) || thrown.code !== "version_not_loaded") throw thrown;
      const loading = this.#late.get(version) ?? this.#load(version);
      this.#late.set(version, loading);
      await loading;
      return await this.#provider.unwrap(wrappedDek, aad, version);
    }
  }

  // -------------------------------------------------------------------------------------------------------------------

  /** A rotation at work may have moved the record to a version that was not in use when this began. */
  async #load(version: number): Promise<void> {
    const doc = (await readVersions(this.#store)).find(({ _id }) => _id === version);
    if (doc !== undefined && doc.state !== "destroyed") return await loadVerified(this.#provider, this.#installId, doc);
    throw new KekError(
      "envelope_invalid",
      doc === undefined
        ? `it is at KEK version ${version}, which is not known`
        : `KEK version ${version} was destroyed`,
      "restore this field from a backup",
    );
  }
}
