import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import type { KekHex } from "../config/config.ts";
import { PREFIX } from "../config/environment.ts";
import { KEK_HEX, kekVersionOf } from "../config/schema.ts";
import { readSecretsFile, removeSecret } from "../config/secrets_file.ts";
import { KEY_BYTES, unwrapWithKey, wrapWithKey } from "../envelope/gcm.ts";
import { KekError } from "../errors/errors.ts";
import { keyMismatch, opensCanary } from "./canary.ts";
import {
  type Capability,
  type DestroyOptions,
  type DestroyOutcome,
  type KeyCanary,
  type Provider,
  type ProviderRecipe,
  rewrapBy,
  type Under,
} from "./provider.ts";
import { roundTrip } from "./round_trip.ts";

/** Where the `env` provider finds KEKs: settings read at start, and the secrets file, read again at each look. */
export interface EnvSource {
  keks: Record<number, KekHex>;
  secretsFile: string | undefined;
}

const SETTING = `${PREFIX}ENCRYPTION_ENV_KEK_V`;

/** KEK bytes in this process's memory. */
export class EnvProvider implements Provider {
  readonly name = "env";
  readonly staging = "by_holders";
  readonly computes = true;
  readonly copyable = true;
  readonly #source: EnvSource;
  readonly #keys = new Map<number, Buffer>();

  /** @throws KekError `key_invalid` when any KEK that is set is not 64 hex digits: found at start, not at a rotation. */
  constructor(source: EnvSource) {
    this.#source = source;
    for (const kek of Object.values(this.#all())) decode(kek).fill(0);
  }

  /** With a key of its own for the occasion: there may be none yet. */
  async probe(): Promise<Capability[]> {
    const key = randomBytes(KEY_BYTES);
    try {
      await roundTrip({
        wrap: (dek, aad) => wrapWithKey(key, dek, aad),
        unwrap: (wrapped, aad) => unwrapWithKey(key, wrapped, aad),
      });
    } finally {
      key.fill(0);
    }
    return [];
  }

  available(versions: number[]): number[] {
    const held = this.held();
    return versions.filter((version) => held.includes(version));
  }

  held(): number[] {
    return Object.keys(this.#all()).map(Number);
  }

  load(version: number, canary?: KeyCanary): void {
    // Who has a canary knows that the version's key exists.
    this.#keys.get(version) ?? this.#read(version, canary !== undefined);
    if (canary === undefined || opensCanary(canary, (wrap, aad) => this.unwrap(wrap, aad, version))) return;
    this.release(version);
    throw keyMismatch(
      "the key held here",
      version,
      `give this host the bytes that the rest of the fleet has for version ${version}, or point it at its own database`,
    );
  }

  /** Bytes in memory stay. */
  check(version: number): void {
    this.#key(version);
  }

  wrap(dek: Uint8Array, aad: Uint8Array, version: number): Buffer {
    return wrapWithKey(this.#key(version), dek, aad);
  }

  unwrap(wrapped: Uint8Array, aad: Uint8Array, version: number): Buffer {
    const key = this.#key(version);
    try {
      return unwrapWithKey(key, wrapped, aad);
    } catch {
      throw new KekError(
        "decryption_failed",
        `the wrapped data key does not open with KEK version ${version}`,
        "its bytes were changed, it was moved from another place, or the key is another one: run `certautopilot kek verify`",
      );
    }
  }

  rewrap(wrapped: Uint8Array, from: Under, to: Under): Uint8Array {
    return rewrapBy(this, wrapped, from, to);
  }

  release(version: number): void {
    this.#keys.get(version)?.fill(0);
    this.#keys.delete(version);
  }

  destroy(version: number, _canary: KeyCanary, { keepCopy }: DestroyOptions): DestroyOutcome {
    this.release(version);
    const outcome: DestroyOutcome = {
      destroyed: [],
      remaining: [],
      copy: undefined,
      advice: "take its key out of every other host's secrets as well",
    };
    const { secretsFile, keks } = this.#source;
    if (secretsFile !== undefined) {
      const kept = { ending: `kek-v${version}-destroyed`, keep: keepCopy };
      const { line, copy } = removeSecret(secretsFile, `${SETTING}${version}`, kept);
      outcome.copy = copy;
      if (line === "removed") outcome.destroyed.push(`${SETTING}${version} in ${secretsFile}`);
      if (line === "kept")
        outcome.remaining.push(`${SETTING}${version} in ${secretsFile}, which cannot be written here`);
    }
    if (keks[version] !== undefined) outcome.remaining.push(keks[version].setting);
    return outcome;
  }

  /** Everything is in the setting's name and the key's bytes. */
  describe(): undefined {
    return undefined;
  }

  overCopy(file: string): EnvProvider {
    readSecretsFile(file);
    return new EnvProvider({ keks: {}, secretsFile: file });
  }

  howToGive(version: number, known: boolean): string {
    const { secretsFile } = this.#source;
    const name = `${SETTING}${version}`;
    if (known) {
      const source = "a host that has it, or from your secret store; never generate it: that makes a different key";
      return secretsFile === undefined
        ? `set ${name} to its value from ${source}. Then start again`
        : `copy the line ${name}=… into ${secretsFile} from ${source}`;
    }
    const once = "64 hex digits, generated once for all hosts: openssl rand -hex 32";
    return secretsFile === undefined
      ? `set ${name} (${once}) and start again`
      : `add a line ${name}=… (${once}) to ${secretsFile}`;
  }

  howToBackUp(): string {
    return "copy the secrets to your secret store, fetch the copy, then run: certautopilot kek verify --backup=FILE";
  }

  recipes(threads: number): ProviderRecipe[] {
    return Array.from({ length: threads }, () => ({ provider: "env" as const, ...this.#source }));
  }

  counts(): undefined {
    return undefined;
  }

  close(): void {
    for (const version of [...this.#keys.keys()]) this.release(version);
  }

  #read(version: number, known: boolean): void {
    const kek = this.#all()[version];
    if (kek === undefined) {
      throw new KekError(
        "key_missing",
        `no key for KEK version ${version}: ${SETTING}${version} is not set`,
        this.howToGive(version, known),
      );
    }
    this.#keys.set(version, decode(kek));
  }

  #key(version: number): Buffer {
    const key = this.#keys.get(version);
    if (key === undefined) {
      throw new KekError(
        "version_not_loaded",
        `KEK version ${version} is not loaded in this process`,
        "run `certautopilot kek status` to see which versions the install uses",
      );
    }
    return key;
  }

  /** Every KEK that is set. Two sources with different bytes for one version are refused: neither can be trusted. */
  #all(): Record<number, KekHex> {
    const all: Record<number, KekHex> = { ...this.#source.keks };
    const { secretsFile } = this.#source;
    if (secretsFile === undefined) return all;
    for (const [name, hex] of Object.entries(readSecretsFile(secretsFile))) {
      if (!name.startsWith(SETTING.slice(0, -"KEK_V".length))) continue;
      const version = kekVersionOf(name.slice(SETTING.length - "KEK_V".length));
      if (version === undefined) {
        throw new KekError(
          "config_invalid",
          `${name} in ${secretsFile} does not name a version`,
          `use ${SETTING}1, …2`,
        );
      }
      const other = all[version];
      if (other !== undefined && other.hex.toLowerCase() !== hex.toLowerCase()) {
        throw new KekError(
          "key_invalid",
          `${other.setting} and ${name} in ${secretsFile} hold different keys for version ${version}`,
          "take one of the two out; `certautopilot kek verify` then tells by the canary whether the other is right",
        );
      }
      all[version] = { setting: `${name} in ${secretsFile}`, hex };
    }
    return all;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function decode(kek: KekHex): Buffer {
  if (!KEK_HEX.test(kek.hex)) {
    throw new KekError(
      "key_invalid",
      `${kek.setting} is not 64 hex digits (it has ${kek.hex.length} characters)`,
      "copy it again from a host that has it, or from your secret store; only the key of a version that no host has is generated: openssl rand -hex 32",
    );
  }
  return Buffer.from(kek.hex, "hex");
}
