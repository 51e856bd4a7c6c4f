/** The library: a service's own process in the fleet. See docs/library.md. */

import type { Config } from "./config/config.ts";
import { loadConfig } from "./config/load.ts";
import { type FieldEncryptionOptions, joinFleet } from "./fleet/join.ts";
import type { FieldEncryption } from "./library/field_encryption.ts";
import { ServiceEncryption } from "./library/service_encryption.ts";

export type { Config } from "./config/config.ts";
export { loadConfig } from "./config/load.ts";
export type { StoredEnvelope } from "./envelope/envelope.ts";
export { type ErrorCode, KekError } from "./errors/errors.ts";
export type { FieldPlace } from "./fleet/fleet_encryption.ts";
export type { FieldEncryptionOptions } from "./fleet/join.ts";
export type { Observe, Observed, Operation } from "./fleet/operation_observer.ts";
export type { CollectionOptions, EncryptedCollection, FoundRecords, Updated } from "./library/collection.ts";
export type { DriverCollection, DriverOptions } from "./library/driver_types.ts";
export type { FieldEncryption, Plaintext, Sealed } from "./library/field_encryption.ts";
export type {
  FieldChanges,
  IdOf,
  NewRecord,
  OneRecord,
  SecretFields,
  SecretKind,
  StoredRecord,
} from "./library/field_types.ts";

/**
 * Joins the fleet, and returns once this process may encrypt: from here on it follows every rotation by itself.
 * @param config what `loadConfig()` reads from CERTAUTOPILOT_… variables, the secrets file and config.yaml; or your own.
 * @param options `log` for what an operator would look for, `askPin` for a token's PIN that is configured nowhere.
 * @throws KekError when it may not serve: `config_invalid`, `key_missing`, `key_mismatch`, `provider_mismatch`, `mongodb_unavailable`,
 * `hsm_unavailable` and others, each with a hint.
 * @example
 * await using encryption = await openFieldEncryption();
 * const token = await encryption.encrypt("s3cret", { collection: "users", id: 1, field: "token" });
 */
export async function openFieldEncryption(
  config: Config = loadConfig(),
  options: FieldEncryptionOptions = {},
): Promise<FieldEncryption> {
  return new ServiceEncryption(await joinFleet(config, options), config.database.name);
}
