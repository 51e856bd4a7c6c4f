import { Buffer } from "node:buffer";
import { dekAad, type Place, placeOf } from "../envelope/aad.ts";
import { readEnvelope, type StoredEnvelope, toStored } from "../envelope/envelope.ts";
import { newDek, openField, sealField } from "../envelope/field_cipher.ts";
import { KekError } from "../errors/errors.ts";
import { keyPolicyOf } from "../protocol/key_policy.ts";
import type { Awaitable } from "../providers/provider.ts";
import { type Auditor, closeAuditor } from "../store/audit_log.ts";
import { readFields } from "../store/fields.ts";
import { readState } from "../store/state.ts";
import { closeStore, type Store } from "../store/store.ts";
import type { FieldRegistry } from "./field_registry.ts";
import type { Keyring } from "./keyring.ts";
import type { Member } from "./member.ts";
import { type Observe, observed } from "./operation_observer.ts";
import { WrapBudget } from "./wrap_budget.ts";
import { isFenceRejection, rejectedWriteVersion, rejectionText, versionsRejected } from "./write_fence_setter.ts";

/** Where a secret lives: an envelope opens only there. */
export interface FieldPlace {
  collection: string;
  /** The record's `_id`, of the very BSON type it is stored with. */
  id: unknown;
  /** The field's path; dots lead through subdocuments. */
  field: string;
}

/** A process of the fleet: encrypts and decrypts, and follows every rotation by itself. */
export interface FieldEncryption {
  /**
   * Seals a value under a new data key, wrapped under the version that MongoDB's state decides.
   * @param plaintext bytes, or text as UTF-8; at most 8 MiB.
   * @returns the envelope, to be stored at `place.field` of the record `place.id`.
   * @throws KekError `fenced` when this process has not seen the state within its lease, `plaintext_too_large`, `closed`.
   */
  encrypt(plaintext: Uint8Array | string, place: FieldPlace): Promise<StoredEnvelope>;
  /**
   * Opens an envelope read from `place`.
   * @throws KekError `envelope_invalid`, `decryption_failed`, `version_not_loaded`.
   */
  decrypt(envelope: unknown, place: FieldPlace): Promise<Buffer>;
  /**
   * Runs a write that encrypts and stores, and runs it again when MongoDB's fence rejects it (code 121): the envelope was
   * made before a rotation and arrived after it. The second time it is encrypted under the new version.
   * @throws KekError `write_rejected` when it is rejected time after time, and says so when MongoDB rejects the version that is
   * written now; anything else as it was thrown.
   */
  write<T>(work: () => Promise<T>): Promise<T>;
  /** Why this process is not ready to encrypt, or undefined. */
  readonly problem: string | undefined;
  /** The version that new values are written under. */
  readonly writeVersion: number | undefined;
  /** Leaves the fleet: nobody waits for this process any more. */
  close(): Promise<void>;
}

// ---------------------------------------------------------------------------------------------------------------------

/** See `joinFleet`. */
export class FleetMemberEncryption implements FieldEncryption {
  readonly #store: Store;
  readonly #member: Member;
  readonly #keyring: Keyring;
  readonly #fields: FieldRegistry;
  readonly #auditor: Auditor;
  readonly #installId: string;
  readonly #budget: WrapBudget;
  readonly #observe: Observe | undefined;

  constructor(
    store: Store,
    {
      member,
      keyring,
      fields,
      auditor,
      installId,
      observe,
    }: {
      member: Member;
      keyring: Keyring;
      fields: FieldRegistry;
      auditor: Auditor;
      installId: string;
      observe: Observe | undefined;
    },
  ) {
    this.#store = store;
    this.#member = member;
    this.#keyring = keyring;
    this.#fields = fields;
    this.#auditor = auditor;
    this.#installId = installId;
    this.#budget = new WrapBudget(store);
    this.#observe = observe;
  }

  get problem(): string | undefined {
    return this.#member.problem;
  }

  get writeVersion(): number | undefined {
    return this.#keyring.writeVersion;
  }

  encrypt(plaintext: Uint8Array | string, place: FieldPlace): Promise<StoredEnvelope> {
    const { name } = this.#keyring.provider;
    return observed(this.#observe, "encrypt", name, () => this.#encrypt(plaintext, place));
  }

  decrypt(stored: unknown, place: FieldPlace): Promise<Buffer> {
    const { name } = this.#keyring.provider;
    return observed(this.#observe, "decrypt", name, () => this.#decrypt(stored, place));
  }

  async #encrypt(plaintext: Uint8Array | string, { collection, id, field }: FieldPlace): Promise<StoredEnvelope> {
    const bytes = typeof plaintext === "string" ? Buffer.from(plaintext, "utf8") : plaintext;
    const place = placeOf(collection, id, field);
    // Whatever is at hand is not waited for: a turn of the event loop's queue costs as much as sealing a small value.
    const registered = { collection, path: field };
    if (!this.#fields.has(registered)) await this.#fields.ensure(registered);
    for (let lacked = 0; ; ) {
      if (!this.#member.mayEncrypt) await this.#member.ensureMayEncrypt();
      const version = this.#keyring.writeVersion;
      if (version === undefined)
        throw new KekError(
          "fenced",
          "this process has no write version",
          "it continues automatically once it has synced",
        );
      if (!this.#budget.takeNow(version)) await this.#budget.take(version);
      const sealing = this.#seal(bytes, version, place);
      const sealed = sealing instanceof Promise ? await sealing : sealing;
      // The phase may have changed, or the lease run out, while the key was at work: then this envelope is thrown away.
      if (sealed !== undefined && this.#member.mayEncrypt && this.#keyring.writeVersion === version) return sealed;
      if (sealed !== undefined || this.#keyring.writeVersion !== version) continue;
      lacked += 1;
      if (lacked > 1) {
        const hint = "look at this process's log; `certautopilot kek verify` names what it lacks";
        throw new KekError("version_not_loaded", `KEK version ${version} is to be written and not loaded here`, hint);
      }
      await this.#member.sync();
    }
  }

  async #decrypt(stored: unknown, { collection, id, field }: FieldPlace): Promise<Buffer> {
    const envelope = readEnvelope(stored, this.#keyring.provider.name);
    const place = placeOf(collection, id, field);
    // A process that has slept may not know a version that was made since: it looks before it gives up.
    if (!this.#keyring.has(envelope.version)) await this.#member.sync();
    const aad = dekAad(this.#installId, envelope.provider, envelope.version, place);
    const unwrapping = this.#keyring.use(envelope.version, (keys) =>
      observed(this.#observe, "unwrap", keys.name, () => keys.unwrap(envelope.wrappedDek, aad, envelope.version)),
    );
    const dek = unwrapping instanceof Promise ? await unwrapping : unwrapping;
    try {
      return openField(dek, envelope, this.#installId, place);
    } finally {
      dek.fill(0);
    }
  }

  async write<T>(work: () => Promise<T>): Promise<T> {
    const TRIES = 3;
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await work();
      } catch (thrown) {
        if (!isFenceRejection(thrown)) throw thrown;
        if (attempt === TRIES) throw (await this.#rejectedNow(thrown)) ?? leftVersion(TRIES, thrown);
        await this.#member.sync();
      }
    }
  }

  async close(): Promise<void> {
    try {
      await this.#member.close();
    } finally {
      // Also when MongoDB is unavailable, and nobody can be told: what is left open would keep the process alive.
      await closeStore(this.#store);
      await closeAuditor(this.#auditor);
    }
  }

  /**
   * Where MongoDB rejects the very version that is written now, no new envelope helps.
   * @returns undefined when that is not so, or cannot be seen.
   */
  async #rejectedNow(cause: unknown): Promise<KekError | undefined> {
    try {
      const { versions, rotation } = await readState(this.#store);
      const version = keyPolicyOf(versions, rotation)?.write;
      const rejected = versionsRejected(cause);
      if (version === undefined || (rejected.length > 0 && !rejected.includes(version))) return undefined;
      const fields = await readFields(this.#store);
      const rejecting = await rejectedWriteVersion(this.#store, fields, version, rotation?.fence);
      if (rejecting.length === 0) return undefined;
      const { message, hint } = rejectionText(version, rejecting, rotation !== undefined);
      return new KekError("write_rejected", message, hint, { cause });
    } catch {
      // The user may lack the right to list collections, or MongoDB is unavailable: the rejection is what the caller must know.
      return undefined;
    }
  }

  /** @returns undefined when the version was given up meanwhile. */
  #seal(plaintext: Uint8Array, version: number, place: Place): Awaitable<StoredEnvelope | undefined> {
    const provider = this.#keyring.provider.name;
    const dek = newDek();
    const sealUnder = (wrappedDek: Uint8Array) => {
      const { nonce, ciphertext } = sealField(dek, plaintext, this.#installId, place);
      return toStored({ provider, version, wrappedDek, nonce, ciphertext });
    };
    let later = false;
    try {
      const aad = dekAad(this.#installId, provider, version, place);
      const wrapping = this.#keyring.use(version, (keys) =>
        observed(this.#observe, "wrap", provider, () => keys.wrap(dek, aad, version)),
      );
      later = wrapping instanceof Promise;
      if (!(wrapping instanceof Promise)) return sealUnder(wrapping);
      return wrapping
        .then(sealUnder)
        .catch(unlessGivenUp)
        .finally(() => dek.fill(0));
    } catch (thrown) {
      return unlessGivenUp(thrown);
    } finally {
      if (!later) dek.fill(0);
    }
  }
}

function leftVersion(tries: number, cause: unknown): KekError {
  return new KekError(
    "write_rejected",
    `MongoDB's fence rejected the write ${tries} times: it holds an envelope of a KEK version that was left`,
    "encrypt inside the function given to write(), so that each try makes a new envelope",
    { cause },
  );
}

function unlessGivenUp(thrown: unknown): undefined {
  if (!(thrown instanceof KekError) || thrown.code !== "version_not_loaded") throw thrown;
}
