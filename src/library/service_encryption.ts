import type { Buffer } from "node:buffer";
import type { StoredEnvelope } from "../envelope/envelope.ts";
import type { FieldPlace, FieldEncryption as FleetEncryption } from "../fleet/fleet_encryption.ts";
import { inOrder } from "./batch.ts";
import type { CollectionOptions, EncryptedCollection } from "./collection.ts";
import type { DriverCollection } from "./driver_types.ts";
import { encryptedCollection } from "./encrypted_collection.ts";
import type { FieldEncryption, Plaintext, Sealed } from "./field_encryption.ts";
import { Operations } from "./operations.ts";

/** How long closing waits for operations in hand. */
const CLOSE_LIMIT_MS = 10_000;

/** A member of the fleet, as a service is given it: many values at once, the driver's collections, and an orderly end. */
export class ServiceEncryption implements FieldEncryption {
  readonly #member: FleetEncryption;
  readonly #database: string;
  readonly #operations = new Operations();
  #closing: Promise<void> | undefined;

  /** @param database the install's: records elsewhere are not found by rotations. */
  constructor(member: FleetEncryption, database: string) {
    this.#member = member;
    this.#database = database;
  }

  get problem(): string | undefined {
    return this.#closing === undefined ? this.#member.problem : "it is closed";
  }

  get writeVersion(): number | undefined {
    return this.#member.writeVersion;
  }

  encrypt(plaintext: Uint8Array | string, place: FieldPlace): Promise<StoredEnvelope> {
    return this.#operations.run(() => this.#member.encrypt(plaintext, place));
  }

  async encryptMany(items: readonly Plaintext[]): Promise<StoredEnvelope[]> {
    return await this.#operations.run(() =>
      inOrder(items, ({ plaintext, place }) => this.#member.encrypt(plaintext, place)),
    );
  }

  decrypt(envelope: unknown, place: FieldPlace): Promise<Buffer> {
    return this.#operations.run(() => this.#member.decrypt(envelope, place));
  }

  async decryptMany(items: readonly Sealed[]): Promise<Buffer[]> {
    return await this.#operations.run(() =>
      inOrder(items, ({ envelope, place }) => this.#member.decrypt(envelope, place)),
    );
  }

  async write<T>(work: () => Promise<T>): Promise<T> {
    return await this.#operations.runAround(() => this.#member.write(work));
  }

  collection<T extends object>(collection: DriverCollection, options: CollectionOptions<T>): EncryptedCollection<T> {
    return encryptedCollection(this, this.#database, collection, options);
  }

  async close(): Promise<void> {
    this.#closing ??= this.#operations.end(CLOSE_LIMIT_MS).then(() => this.#member.close());
    await this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
