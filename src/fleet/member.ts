import type { Config } from "../config/config.ts";
import { declaredVersion } from "../config/load.ts";
import { KekError, messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { Acked, InstallDoc, Role } from "../protocol/documents.ts";
import { type KeyPolicy, keyPolicyOf, rollbackIn, versionsToHold } from "../protocol/key_policy.ts";
import type { Auditor } from "../store/audit_log.ts";
import { watchSignals } from "../store/change_signals.ts";
import type { HeartbeatFields } from "../store/heartbeats.ts";
import { type KekState, readState } from "../store/state.ts";
import { inSession, type Session, type Store, within } from "../store/store.ts";
import { type Moment, msSince, now } from "../util/monotonic_clock.ts";
import { SingleFlight } from "../util/single_flight.ts";
import { Announcer } from "./announcer.ts";
import { Drain } from "./drain.ts";
import type { FieldRegistry } from "./field_registry.ts";
import { beginInstall, nothingActive } from "./first_version.ts";
import { HeartbeatWriter } from "./heartbeat_writer.ts";
import { KeyHealth } from "./key_health.ts";
import { KeyLoader, type KeyReport, lacks, stageUnknown } from "./key_loader.ts";
import type { Keyring } from "./keyring.ts";
import { watchSecrets } from "./secrets_watch.ts";

export interface MemberOptions {
  store: Store;
  config: Config;
  install: InstallDoc;
  keyring: Keyring;
  auditor: Auditor;
  role: Role;
  log: Log;
  fields: Pick<FieldRegistry, "keep">;
  /** Called after each look at the state, for duties that every member shares (the guard over validators). */
  onState?: (state: KekState) => Promise<void>;
}

/** How long a sync waits for a key: the next one waits for it again. */
const KEY_WAIT_MS = 5000;
/** How long a process that leaves waits for a duty in hand. */
const DUTY_LIMIT_MS = 2000;

/**
 * One process of the fleet. Each sync runs in this order, and the order is the protocol: heartbeat, read the state, load
 * and verify keys, apply, acknowledge (docs/protocol.md).
 */
export class Member {
  readonly #options: MemberOptions;
  readonly #loader: KeyLoader;
  readonly #drain: Drain;
  readonly #heartbeat: HeartbeatWriter;
  readonly #keyHealth: KeyHealth;
  #policy: KeyPolicy | undefined;
  readonly #announcer: Announcer;
  #report: KeyReport = { problems: [], available: [], reasons: new Map() };
  /** When the last successful sync began. */
  #syncedAt: Moment | undefined;
  readonly #syncs = new SingleFlight(() => this.#once());
  #duty: Promise<void> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stops: (() => Promise<void> | void)[] = [];
  #closed = false;
  #lastTrouble = "";
  /** Of the state in which the list of fields was last looked at, and when. */
  #kept: { epoch: number; at: Moment } | undefined;

  constructor(options: MemberOptions) {
    this.#options = options;
    this.#loader = new KeyLoader(options.install.install_id);
    this.#drain = new Drain(options.config.fleet.drainMs, () => this.#wake());
    this.#heartbeat = new HeartbeatWriter(options.store, {
      config: options.config,
      role: options.role,
      log: options.log,
      fields: () => this.#fields(),
    });
    this.#announcer = new Announcer(options.log);
    this.#keyHealth = new KeyHealth(options.keyring, options.config.fleet.beatMs, options.log);
  }

  /** Joins, and returns after the first acknowledgement. @throws KekError when a version that the state needs is lacking. */
  async start(): Promise<void> {
    try {
      await this.sync();
    } catch (thrown) {
      await this.close().catch((met) => this.#options.log.warn(`while leaving: ${messageOf(met)}`));
      throw thrown;
    }
    const { store, config } = this.#options;
    this.#stops.push(watchSignals(store, () => this.#wake()));
    if (config.secretsFile !== undefined) this.#stops.push(watchSecrets(config.secretsFile, () => this.#wake()));
    this.#stops.push(() => this.#keyHealth.stop());
    this.#keyHealth.start();
    this.#schedule();
  }

  /** Whether this process may encrypt now: it has acknowledged, and its last look is younger than its lease. */
  get mayEncrypt(): boolean {
    return (
      !this.#closed &&
      this.#heartbeat.acked !== undefined &&
      this.#syncedAt !== undefined &&
      msSince(this.#syncedAt) < this.#options.config.fleet.leaseMs
    );
  }

  /** What keeps this process from being ready, in words; undefined when nothing does. */
  get problem(): string | undefined {
    if (this.#closed) return "it is closed";
    if (this.#heartbeat.acked === undefined) return this.#lastTrouble || "it has not acknowledged yet";
    if (this.#keyHealth.problem !== undefined) return this.#keyHealth.problem;
    return this.mayEncrypt
      ? undefined
      : `its last sync is older than its lease: ${this.#lastTrouble || "it is still under way"}`;
  }

  /** What this process has acknowledged, and how long ago its last successful look began, in milliseconds. */
  get standing(): { acked: Acked | undefined; syncAgeMs: number | undefined } {
    return { acked: this.#heartbeat.acked, syncAgeMs: this.#syncedAt && msSince(this.#syncedAt) };
  }

  /**
   * Makes sure that this process may encrypt, with a sync if its lease ran out.
   * @throws KekError `fenced` when it may not.
   */
  async ensureMayEncrypt(): Promise<void> {
    if (this.mayEncrypt) return;
    if (this.#closed)
      throw new KekError("closed", "this process has left the fleet", "open it again with openFieldEncryption");
    let cause: unknown;
    try {
      await this.sync();
    } catch (thrown) {
      cause = thrown;
    }
    if (this.mayEncrypt) return;
    throw new KekError(
      "fenced",
      `this process may not encrypt: ${this.problem}`,
      "it continues automatically once it has seen the state in MongoDB again",
      { cause },
    );
  }

  /** One sync that begins after this call. Calls that wait at the same time share it. */
  sync(): Promise<void> {
    return this.#syncs.next();
  }

  /** Leaves the roster: a clean stop, nobody waits for this process any more. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#drain.clear();
    for (const stop of this.#stops) await stop();
    await this.#syncs.over();
    // What it leaves half done is put right by the next process that looks.
    if (this.#duty !== undefined) await within(DUTY_LIMIT_MS, this.#duty).catch(() => undefined);
    await this.#options.keyring.close();
    await this.#heartbeat.leave();
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #once(): Promise<void> {
    if (this.#closed)
      throw new KekError("closed", "this process has left the fleet", "open it again with openFieldEncryption");
    const began = now();
    try {
      await inSession(this.#options.store, (session) => this.#follow(session));
      this.#syncedAt = began;
      this.#lastTrouble = "";
    } catch (thrown) {
      this.#lastTrouble = messageOf(thrown);
      throw thrown;
    }
  }

  async #follow(session: Session): Promise<void> {
    const { keyring, store, auditor, install, config } = this.#options;
    // The heartbeat comes before the look: whoever changes the phase after it must wait for this process.
    await this.#answer(this.#heartbeat.refresh(session));
    let state = await this.#answer(readState(store, session));
    if (state.versions.every((version) => version.state === "staged")) {
      const where = { store, auditor, installId: install.install_id };
      state = await beginInstall(where, keyring.provider, config.encryption.currentVersion, state);
    }
    let policy = await this.#load(session, state);
    // Only who has verified the version in use may make another known: else a stranger's keys would take its number.
    if (await this.#stage(state)) {
      state = await this.#answer(readState(store, session));
      policy = await this.#load(session, state);
    }
    this.#announcer.tell(this.#policy, policy, this.#report);
    this.#policy = policy;
    await this.#keepFields(policy);
    keyring.writeUnder(policy.write);
    const drained = await this.#drain.settle(
      keyring,
      versionsToHold(policy, state.versions),
      this.#heartbeat.acked !== undefined,
    );
    const { rotation, epoch, phase } = policy;
    await this.#answer(
      this.#heartbeat.acknowledge(session, drained ? { rotation, epoch, phase } : this.#heartbeat.acked),
    );
    this.#attend(state);
  }

  /** Before a phase is acknowledged: what this process writes must be among what the rotation moves. */
  async #keepFields({ epoch }: KeyPolicy): Promise<void> {
    const { fields, config } = this.#options;
    if (this.#kept?.epoch === epoch && msSince(this.#kept.at) < config.fleet.leaseMs) return;
    const at = now();
    await this.#answer(fields.keep());
    this.#kept = { epoch, at };
  }

  /** Beside the syncs, one at a time: a `collMod` waits for every transaction on its collection, and no heartbeat is to wait with it. */
  #attend(state: KekState): void {
    const { onState, log } = this.#options;
    this.#duty ??= onState?.(state)
      .catch((thrown) => log.warn(messageOf(thrown)))
      .finally(() => {
        this.#duty = undefined;
      });
  }

  /** Later than its lease no answer is of use: this process has fenced itself, and looks again in a new session. */
  async #answer<T>(work: Promise<T>): Promise<T> {
    return await within(this.#options.config.fleet.leaseMs, work);
  }

  /** Loads and verifies what the state asks for. @throws KekError when a version that is needed is not held. */
  async #load(session: Session, state: KekState): Promise<KeyPolicy> {
    const { keyring, config } = this.#options;
    const policy = keyPolicyOf(state.versions, state.rotation);
    if (policy === undefined) throw nothingActive(keyring.provider, config.encryption.currentVersion, state.versions);
    const back = rollbackIn(this.#policy, policy);
    if (back !== undefined) throw rolledBack(back);
    const waitMs = this.#syncedAt === undefined ? undefined : KEY_WAIT_MS;
    this.#report = await this.#loader.loadAll(keyring, state.versions, versionsToHold(policy, state.versions), waitMs);
    const lacking = policy.readable.find((version) => !keyring.has(version));
    if (lacking === undefined) return policy;
    await this.#heartbeat.acknowledge(session, this.#heartbeat.acked);
    throw lacks(lacking, this.#report, keyring.provider);
  }

  /** Makes versions known that only this process holds. @returns whether there was one. */
  async #stage(state: KekState): Promise<boolean> {
    const { store, auditor, keyring, install, log } = this.#options;
    try {
      return await stageUnknown(store, {
        auditor,
        provider: keyring.provider,
        installId: install.install_id,
        known: state.versions,
      });
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      log.warn(`new KEK versions cannot be loaded: ${thrown.message}; ${thrown.hint}`);
      return false;
    }
  }

  #fields(): HeartbeatFields {
    const { keyring } = this.#options;
    return {
      loaded: keyring.loaded,
      available: this.#report.available,
      problems: this.#report.problems,
      key_trouble: this.#keyHealth.problem ?? null,
      current_version: this.#declared() ?? null,
      write_version: keyring.writeVersion ?? null,
    };
  }

  #declared(): number | undefined {
    const { config, log } = this.#options;
    try {
      return declaredVersion(config);
    } catch (thrown) {
      log.warn(messageOf(thrown));
      return config.encryption.currentVersion;
    }
  }

  #wake(): void {
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.sync()
      .catch((thrown) => {
        // One that was asked for while this process was leaving has nothing to tell.
        if (!this.#closed) this.#options.log.warn(`sync: ${messageOf(thrown)}`);
      })
      .finally(() => this.#schedule());
  }

  #schedule(): void {
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#wake(), this.#options.config.fleet.beatMs);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** A process that has followed a later state knows that this one is not its successor, and nothing about what is. */
function rolledBack(back: string): KekError {
  return new KekError(
    "document_invalid",
    `kek_rotations: the state that this process has followed is gone: ${back}`,
    "if the install's collections were restored on purpose, restart this process: it then joins what is there",
  );
}
