/** The library: a service's own process in the fleet. See docs/library.md. */

import type { Config } from "./config/config.ts";
import { loadConfig } from "./config/load.ts";
import { joinFleet, type KekOptions } from "./fleet/join.ts";
import type { Kek } from "./library/kek.ts";
import { ServiceKek } from "./library/service_kek.ts";

export type { Config } from "./config/config.ts";
export { loadConfig } from "./config/load.ts";
export type { StoredEnvelope } from "./envelope/envelope.ts";
export { type ErrorCode, KekError } from "./errors/errors.ts";
export type { KekOptions } from "./fleet/join.ts";
export type { FieldPlace } from "./fleet/kek.ts";
export type { Observe, Observed, Operation } from "./fleet/observe.ts";
export type { CollectionOptions, EncryptedCollection, FoundRecords, Updated } from "./library/collection.ts";
export type { DriverCollection, DriverOptions } from "./library/driver.ts";
export type {
  Changes,
  IdOf,
  NewRecord,
  OneRecord,
  SecretFields,
  SecretKind,
  StoredRecord,
} from "./library/field_types.ts";
export type { Kek, Plaintext, Sealed } from "./library/kek.ts";

/**
 * Joins the fleet, and returns once this process may encrypt: from here on it follows every rotation by itself.
 * @param config what `loadConfig()` reads from CERTAUTOPILOT_… variables, the secrets file and config.yaml; or your own.
 * @param options `log` for what an operator would look for, `askPin` for a token's PIN that is configured nowhere.
 * @throws KekError when it may not serve: `config_invalid`, `key_missing`, `key_mismatch`, `provider_mismatch`, `mongodb_away`,
 * `hsm_away` and others, each with a hint.
 * @example
 * await using kek = await openKek();
 * const token = await kek.encrypt("s3cret", { collection: "users", id: 1, field: "token" });
 */
export async function openKek(config: Config = loadConfig(), options: KekOptions = {}): Promise<Kek> {
  return new ServiceKek(await joinFleet(config, options), config.database.name);
}
