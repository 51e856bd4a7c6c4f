import { randomUUID } from "node:crypto";
import process from "node:process";
import type { Config } from "../config/config.ts";
import { hostName } from "../config/environment.ts";
import { KekError } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { Acked, Role } from "../protocol/documents.ts";
import { type HeartbeatFields, join, leave, refreshHeartbeat } from "../store/heartbeats.ts";
import type { Session, Store } from "../store/store.ts";

/** This process's document in the roster: joins, refreshes, acknowledges, leaves. A refresh never recreates it. */
export class HeartbeatWriter {
  readonly #store: Store;
  readonly #config: Config;
  readonly #role: Role;
  readonly #log: Log;
  readonly #fields: () => HeartbeatFields;
  #id: string | undefined;
  #acked: Acked | undefined;
  #acknowledgedText = "";

  /** @param fields what this process holds and writes, asked at each heartbeat. */
  constructor(
    store: Store,
    { config, role, log, fields }: { config: Config; role: Role; log: Log; fields: () => HeartbeatFields },
  ) {
    this.#store = store;
    this.#config = config;
    this.#role = role;
    this.#log = log;
    this.#fields = fields;
  }

  /** What was last acknowledged; undefined until the first time, and again after an eviction. */
  get acked(): Acked | undefined {
    return this.#acked;
  }

  /** Refreshes the heartbeat; joins, or joins again when this process was evicted. */
  async refresh(session: Session): Promise<void> {
    const id = this.#id;
    if (id !== undefined) {
      if (await refreshHeartbeat(this.#store, session, id, this.#fields())) return;
      // A refresh that was given up, and answers late: the one after it has joined again.
      if (this.#id !== id) return;
      this.#log.warn("this process was evicted from the fleet: it joins again");
    }
    await this.#join(session);
  }

  /**
   * Says what is held now, and acknowledges; writes only when there is something new to say.
   * @throws KekError `fenced` when this process was evicted meanwhile.
   */
  async acknowledge(session: Session, acked: Acked | undefined): Promise<void> {
    const fields = { ...this.#fields(), acked: acked ?? null };
    const text = JSON.stringify(fields);
    if (this.#id === undefined || text === this.#acknowledgedText) return;
    if (!(await refreshHeartbeat(this.#store, session, this.#id, fields))) {
      this.#acked = undefined;
      throw new KekError("fenced", "this process was evicted from the fleet", "it joins again by itself");
    }
    this.#acknowledgedText = text;
    this.#acked = acked;
  }

  async leave(): Promise<void> {
    if (this.#id !== undefined) await leave(this.#store, this.#id);
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #join(session: Session): Promise<void> {
    const { beatMs, leaseMs, evictionMs, drainMs } = this.#config.fleet;
    this.#acked = undefined;
    this.#acknowledgedText = "";
    this.#id = randomUUID();
    await join(this.#store, session, {
      _id: this.#id,
      role: this.#role,
      host: hostName(),
      pid: process.pid,
      instance_name: this.#config.instanceName,
      provider: this.#config.encryption.provider,
      ...this.#fields(),
      acked: null,
      fleet: { beat_ms: beatMs, lease_ms: leaseMs, eviction_ms: evictionMs, drain_ms: drainMs },
    });
  }
}
