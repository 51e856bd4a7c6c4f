import { Buffer } from "node:buffer";
import { KekError } from "../../errors/errors.ts";
import { withTimeLimit } from "../../util/time_limit.ts";
import type {
  Capability,
  DestroyOptions,
  DestroyOutcome,
  KeyCanary,
  KeyDescription,
  Provider,
  ProviderRecipe,
  TokenCounts,
  Under,
} from "../provider.ts";
import { refuseUnsupported } from "./capabilities.ts";
import { labelTaken } from "./key_lifecycle.ts";
import { keyLabel } from "./key_object.ts";
import { slowError } from "./session_errors.ts";
import type { TokenSettings } from "./token_settings.ts";
import { type PoolOptions, WorkQueue } from "./work_queue.ts";

/** A provider that can make keys too: what `pkcs11-init` works with. */
export type Token = Pkcs11Provider;

/** KEKs that were born in a token and never leave it: what is held here are sessions, and the versions they may use. */
export class Pkcs11Provider implements Provider {
  readonly name = "pkcs11";
  readonly staging = "by_init";
  readonly computes = false;
  readonly copyable = false;
  readonly #settings: TokenSettings;
  readonly #pool: WorkQueue;
  readonly #loading = new Map<string, Promise<void>>();
  #tokenLimit: Promise<number | undefined> | undefined;

  /** Nothing is loaded or opened before the first call. @param sessions how many may be open at once. */
  /**
   * Nothing is loaded or opened before the first call.
   * @param sessions how many may be open at once.
   */
  constructor(settings: TokenSettings, sessions: number, options: Partial<PoolOptions> = {}) {
    this.#settings = settings;
    this.#pool = new WorkQueue(settings, sessions, { separateTasks: true, claims: undefined, ...options });
  }

  /** @param versions of which a key is tried with where this user may make none. */
  async probe(versions: number[] = []): Promise<Capability[]> {
    await this.#learnLimit();
    const { ownIvs, tokenLabel } = this.#settings;
    const rows = await this.#pool.perform({ do: "probe", ownIvs, sessions: this.#pool.limit, versions });
    refuseUnsupported(tokenLabel, rows);
    return rows;
  }

  async available(versions: number[], waitMs?: number): Promise<number[]> {
    if (versions.length === 0) return [];
    return await this.#within(waitMs, this.#pool.perform({ do: "list", versions }, LIST_RETRY_MS));
  }

  /** A key in a token says by its label alone nothing about whose it is: only the versions that MongoDB knows count. */
  held(): number[] {
    return [];
  }

  /** A load that takes longer than the caller waits continues, and the next call waits for the same one. */
  async load(version: number, canary?: KeyCanary, waitMs?: number): Promise<void> {
    const key = `${version} ${canary === undefined ? "" : Buffer.from(canary.wrap).toString("hex")}`;
    const loading = this.#loading.get(key) ?? this.#loadNow(version, canary).finally(() => this.#loading.delete(key));
    this.#loading.set(key, loading);
    await this.#within(waitMs, loading);
  }

  async check(version: number): Promise<void> {
    await this.#pool.perform({ do: "check", version });
  }

  async wrap(dek: Uint8Array, aad: Uint8Array, version: number): Promise<Uint8Array> {
    return await this.#pool.operate({ kind: "wrap", version, data: dek, aad });
  }

  async unwrap(wrapped: Uint8Array, aad: Uint8Array, version: number): Promise<Uint8Array> {
    return await this.#pool.operate({ kind: "unwrap", version, data: wrapped, aad });
  }

  async rewrap(wrapped: Uint8Array, from: Under, to: Under): Promise<Uint8Array> {
    const { version, aad } = from;
    return await this.#pool.operate({ kind: "rewrap", version, data: wrapped, aad, to: to.version, toAad: to.aad });
  }

  release(version: number): void {
    this.#pool.release(version);
  }

  async describe(version: number): Promise<KeyDescription | undefined> {
    const [key] = await this.#pool.perform({ do: "describe", version });
    return key && { label: key.label, id: key.id, mechanism: MECHANISM };
  }

  async destroy(version: number, canary: KeyCanary, { keepCopy }: DestroyOptions): Promise<DestroyOutcome> {
    if (keepCopy) {
      throw new KekError(
        "usage",
        `no copy of KEK version ${version} can be kept: a key never leaves its token`,
        "leave --keep-copy out; the token's own backup keeps the key",
      );
    }
    this.#pool.release(version);
    const { destroyed, foreign } = await this.#pool.perform({ do: "destroy", version, canary });
    const name = `${keyLabel(version)} in token "${this.#settings.tokenLabel}"`;
    return {
      destroyed: destroyed > 0 ? [`the key ${name}`] : [],
      remaining: foreign.map(
        (id) => `a key ${name} with id ${id || "none"}: it is not this install's, and was left alone`,
      ),
      copy: undefined,
      advice:
        destroyed + foreign.length === 0
          ? `no key ${name} was found: if it lives in another token, destroy it there`
          : "backups of the token, and members of its cluster that were unavailable, may still hold the key",
    };
  }

  /**
   * Makes the key of a version in the token, or finds that it was made before.
   * @throws KekError `refused` when another install's key has its label, `hsm_unfit` when the token makes keys otherwise.
   */
  async make(version: number, installId: string): Promise<KeyDescription> {
    const { label, id } = await this.#pool.perform({ do: "make", version, installId });
    return { label, id, mechanism: MECHANISM };
  }

  /**
   * Makes sure that the key MongoDB knows for a version is there, and the only one of its label.
   * @param recorded its id, in hex. @throws KekError `key_missing`, `key_invalid`, `key_mismatch`, `refused`.
   */
  async tidy(version: number, installId: string, recorded: string, canary: KeyCanary): Promise<void> {
    await this.#pool.perform({ do: "tidy", version, installId, recorded, canary });
  }

  /** @throws KekError `refused` when the token holds a key of the version's name, which a fresh install cannot have made. */
  async refuseTaken(version: number): Promise<void> {
    const there = await this.#pool.perform({ do: "describe", version });
    if (there.length > 0) throw labelTaken(this.#settings.tokenLabel, version, there);
  }

  overCopy(file: string): Provider {
    throw new KekError(
      "usage",
      `${file} cannot hold the keys of a token: they never leave it`,
      "back the token up as its vendor says (docs/hsm), and verify the copy by pointing the token label at it: `certautopilot kek verify`",
    );
  }

  howToGive(version: number, known: boolean): string {
    if (known)
      return `name the token that holds the key of version ${version}, or restore it into this one as its vendor says; a version's key is never made twice`;
    return `make it in the token: certautopilot kek pkcs11-init --version=${version}`;
  }

  howToBackUp(): string {
    return "keys in a token are saved by the token's own backup (docs/hsm): make one, restore it elsewhere and verify it, then leave --require-backup out, which is for the env provider";
  }

  async recipes(): Promise<ProviderRecipe[]> {
    await this.#learnLimit();
    // One thread keeps any token busy, for its sessions are threads too. It gets all that this process may have.
    // The module stays initialised: some crash in C_Finalize, or cannot be initialised again.
    await this.#pool.rest();
    return [{ provider: "pkcs11", token: this.#settings, sessions: this.#pool.limit, separateTasks: false }];
  }

  counts(): TokenCounts {
    return this.#pool.counts();
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }

  async #loadNow(version: number, canary: KeyCanary | undefined): Promise<void> {
    this.#pool.load(version, canary);
    try {
      await this.#pool.perform({ do: "check", version });
    } catch (thrown) {
      this.#pool.release(version);
      throw thrown;
    }
  }

  /** @throws KekError `hsm_unavailable` when the caller waits no longer. */
  async #within<T>(waitMs: number | undefined, work: Promise<T>): Promise<T> {
    if (waitMs === undefined) return await work;
    return await withTimeLimit(waitMs, work, () => {
      throw slowError(this.#settings.tokenLabel, waitMs);
    });
  }

  /** How many sessions the token gives one process. */
  async #learnLimit(): Promise<number | undefined> {
    this.#tokenLimit ??= this.#pool.perform({ do: "limit" });
    const limit = await this.#tokenLimit.catch((thrown) => {
      this.#tokenLimit = undefined;
      throw thrown;
    });
    if (limit !== undefined) this.#pool.atMost(limit);
    return limit;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** The list is asked for again at the next sync. */
const LIST_RETRY_MS = 500;
const MECHANISM = "CKM_AES_GCM";
