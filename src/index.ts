/** The library: a service's own process in the fleet. See README.md, "In your service". */

import type { Config } from "./config/config.ts";
import { loadConfig } from "./config/load.ts";
import { joinFleet, type Kek, type KekOptions } from "./fleet/kek.ts";

export type { Config } from "./config/config.ts";
export { loadConfig } from "./config/load.ts";
export type { StoredEnvelope } from "./envelope/envelope.ts";
export { type ErrorCode, KekError } from "./errors/errors.ts";
export type { FieldPlace, Kek, KekOptions } from "./fleet/kek.ts";
export type { Observe, Observed, Operation } from "./fleet/observe.ts";

/**
 * Joins the fleet: from here on this process follows every rotation by itself.
 * @param config what `loadConfig()` reads from the environment and config.yaml, or your own.
 */
export async function openKek(config: Config = loadConfig(), options: KekOptions = {}): Promise<Kek> {
  return await joinFleet(config, options);
}
