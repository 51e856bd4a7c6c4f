import type { Buffer } from "node:buffer";
import type { StoredEnvelope } from "../envelope/envelope.ts";
import type { FieldPlace, FieldEncryption as FleetEncryption } from "../fleet/fleet_encryption.ts";
import type { CollectionOptions, EncryptedCollection } from "./collection.ts";
import type { DriverCollection } from "./driver_types.ts";
import type { Loose } from "./field_types.ts";

/** A value and where it will be stored. */
export interface Plaintext {
  /** Bytes, or text as UTF-8; at most 8 MiB. */
  plaintext: Uint8Array | string;
  place: FieldPlace;
}

/** An envelope and where it was read. */
export interface Sealed {
  envelope: unknown;
  place: FieldPlace;
}

/** What a service has in hand: its own place in the fleet. It encrypts and decrypts, and follows every rotation by itself. */
export interface FieldEncryption extends FleetEncryption, AsyncDisposable {
  /**
   * Seals a value under a new data key, wrapped under the version that MongoDB's state decides. Registers the field first,
   * if nobody has.
   * @param plaintext bytes, or text as UTF-8; at most 8 MiB.
   * @param place the collection, the record's `_id` of the BSON type it is stored with, and the field's path.
   * @returns the envelope, to be stored as it is at `place.field` of the record `place.id`; any driver takes it.
   * @throws KekError `fenced` when this process has not seen the state within its lease; `plaintext_too_large`; `usage` for an
   * `_id` that cannot be bound; `wrap_limit_reached`; `hsm_unavailable`; `closed`.
   * @example
   * const token = await encryption.encrypt("s3cret", { collection: "users", id: user._id, field: "token" });
   */
  encrypt(plaintext: Uint8Array | string, place: FieldPlace): Promise<StoredEnvelope>;

  /**
   * Seals many values, up to 256 at a time; a token's sessions are kept busy. Each is sealed under the version that may be
   * written at its moment, as `encrypt` does: in the middle of a rotation one answer may hold two versions.
   * @returns the envelopes, in the order given. All or none: at the first value that fails nothing further is begun, and the
   * call throws.
   * @throws KekError as `encrypt`; its message begins with `item 3 of 10:`, counted from 0.
   * @example
   * const [token, seed] = await encryption.encryptMany([
   *   { plaintext: "s3cret", place: { collection: "users", id, field: "token" } },
   *   { plaintext: bytes, place: { collection: "users", id, field: "seed" } },
   * ]);
   */
  encryptMany(items: readonly Plaintext[]): Promise<StoredEnvelope[]>;

  /**
   * Opens an envelope that was read from `place`.
   * @returns the bytes that were sealed; `.toString("utf8")` for text.
   * @throws KekError `envelope_invalid` for what is no envelope of this install; `decryption_failed` when it was changed or
   * moved; `version_not_loaded`; `hsm_unavailable`; `closed`.
   * @example
   * const user = await users.findOne({ _id });
   * const token = (await encryption.decrypt(user.token, { collection: "users", id: _id, field: "token" })).toString("utf8");
   */
  decrypt(envelope: unknown, place: FieldPlace): Promise<Buffer>;

  /**
   * Opens many envelopes, up to 256 at a time.
   * @returns the plaintexts, in the order given. All or none, as `encryptMany`; where one bad record must not hide the others,
   * use `Promise.allSettled` over `decrypt`.
   * @throws KekError as `decrypt`; its message begins with `item 3 of 10:`, counted from 0.
   */
  decryptMany(items: readonly Sealed[]): Promise<Buffer[]>;

  /**
   * Runs a write that encrypts and stores, and runs it again when MongoDB's fence rejects it (code 121): the envelope was
   * made before a rotation and arrived after it. The second time it is encrypted under the new version.
   * @param work encrypts, stores, and may run up to three times.
   * @throws KekError `write_rejected` when it is rejected three times; anything else as it was thrown.
   * @example
   * await encryption.write(async () => {
   *   const token = await encryption.encrypt("s3cret", { collection: "users", id: _id, field: "token" });
   *   await users.updateOne({ _id }, { $set: { token } });
   * });
   */
  write<T>(work: () => Promise<T>): Promise<T>;

  /**
   * A collection of the application's own driver in which some fields are encrypted: documents hold plaintext here, and
   * envelopes in MongoDB.
   * @param collection of the install's database, from a driver of any version: `db.collection("users")`.
   * @throws KekError `usage` when the collection is in another database, where no rotation would find it.
   * @example
   * interface User { _id: ObjectId; name: string; token: string; key?: { pem: string } }
   * const users = encryption.collection<User>(db.collection("users"), { fields: { token: "text", "key.pem": "text" } });
   * const { insertedId } = await users.insertOne({ name: "ada", token: "s3cret" });
   * const ada = await users.findOne({ _id: insertedId }); // ada.token is "s3cret"
   */
  collection<T extends object = Loose>(
    collection: DriverCollection,
    options: CollectionOptions<NoInfer<T>>,
  ): EncryptedCollection<T>;

  /** Why this process may not encrypt now, in words; undefined: it may. What `/readyz` of a service should answer 503 for. */
  readonly problem: string | undefined;

  /** The KEK version that new values are written under; undefined before the first look at the state, and once closed. */
  readonly writeVersion: number | undefined;

  /**
   * Leaves the fleet: nobody waits for this process any more. What is in hand may end, for up to 10 s; what is new is refused
   * with `closed`. Called again it does nothing more. `await using encryption = await openFieldEncryption()` calls it at the block's end.
   */
  close(): Promise<void>;
}
