import type { Config } from "../config/config.ts";
import { type Log, SILENT } from "../errors/log.ts";
import type { Acked, InstallDoc, Role } from "../protocol/documents.ts";
import type { Provider, TokenCounts } from "../providers/provider.ts";
import type { AskPin } from "../providers/registry.ts";
import { closeAuditor, openAuditor } from "../store/audit_log.ts";
import { explainMongo } from "../store/mongodb_errors.ts";
import { closeStore, openStore, type Store } from "../store/store.ts";
import { FieldRegistry } from "./field_registry.ts";
import { type FieldEncryption, FleetMemberEncryption } from "./fleet_encryption.ts";
import { Keyring } from "./keyring.ts";
import { Member } from "./member.ts";
import { openOrLockInstall } from "./open_install.ts";
import type { Observe } from "./operation_observer.ts";
import { WriteFenceGuard } from "./write_fence_guard.ts";

export interface FieldEncryptionOptions {
  role?: Role;
  log?: Log;
  /** Asks a person for a token's PIN that is configured nowhere. */
  askPin?: AskPin;
  /** Told of each encrypt, decrypt, wrap and unwrap: its outcome and how long it took. Costs next to nothing when left out. */
  observe?: Observe;
}

/** A process of the fleet from the inside: `serve` also shows what is stored. `encryption.close()` closes the store. */
export interface Membership {
  encryption: FieldEncryption;
  store: Store;
  install: InstallDoc;
  standing(): Standing;
}

/** Where this process stands at this moment. */
export interface Standing {
  /** Since its last look at the state; undefined before the first. In milliseconds. */
  syncAgeMs: number | undefined;
  acked: Acked | undefined;
  loaded: number[];
  token: TokenCounts | undefined;
}

/** Joins the fleet and returns after the first acknowledgement. @throws KekError when it may not serve. */
export async function joinFleet(config: Config, options: FieldEncryptionOptions = {}): Promise<FieldEncryption> {
  return (await becomeMember(config, options)).encryption;
}

/** The same for `serve`. Library users are given the `Kek` alone. */
export async function becomeMember(config: Config, options: FieldEncryptionOptions = {}): Promise<Membership> {
  const log = options.log ?? SILENT;
  const role = options.role ?? "library";
  // A service that uses the library has its own use for stdout.
  const stream = role === "library" ? "stderr" : "stdout";
  const auditor = openAuditor(config, `${role} ${config.instanceName}`, { log, stream });
  let store: Store | undefined;
  let provider: Provider | undefined;
  try {
    store = await openStore(config.database, { appName: `certautopilot ${role}` });
    const { install, provider: keys } = await openOrLockInstall(store, config, auditor, options.askPin);
    provider = keys;
    const keyring = new Keyring(keys);
    const fields = new FieldRegistry(store, config.instanceName);
    for (const field of config.fields) await fields.ensure(field);
    const guard = new WriteFenceGuard(store, auditor, log, config.fleet.leaseMs);
    const onState = (state: Parameters<WriteFenceGuard["look"]>[0]) => guard.look(state);
    const member = new Member({ store, config, install, keyring, fields, auditor, role, log, onState });
    await member.start();
    const encryption = new FleetMemberEncryption(store, {
      member,
      keyring,
      fields,
      auditor,
      installId: install.install_id,
      observe: options.observe,
    });
    const standing = () => ({ ...member.standing, loaded: keyring.loaded, token: keys.counts() });
    return { encryption, store, install, standing };
  } catch (thrown) {
    // Whoever tries again opens new sessions with the token.
    await provider?.close();
    if (store !== undefined) await closeStore(store);
    await closeAuditor(auditor);
    throw explainMongo(thrown, config.database.uri) ?? thrown;
  }
}
