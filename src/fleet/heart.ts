import { randomUUID } from "node:crypto";
import process from "node:process";
import type { Config } from "../config/config.ts";
import { hostName } from "../config/environment.ts";
import { KekError } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { Acked, Role } from "../store/documents.ts";
import { type BeatFields, beat, join, leave } from "../store/heartbeats.ts";
import type { Session, Store } from "../store/store.ts";

/** This process's document in the roster: joins, beats, acknowledges, leaves. A beat never recreates it. */
export class Heart {
  readonly #store: Store;
  readonly #config: Config;
  readonly #role: Role;
  readonly #log: Log;
  readonly #fields: () => BeatFields;
  #id: string | undefined;
  #acked: Acked | undefined;
  #told = "";

  /** @param fields what this process holds and writes, asked at each beat. */
  constructor(store: Store, config: Config, role: Role, log: Log, fields: () => BeatFields) {
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

  /** A beat; joins, or joins anew when this process was evicted. */
  async beat(session: Session): Promise<void> {
    const id = this.#id;
    if (id !== undefined) {
      if (await beat(this.#store, session, id, this.#fields())) return;
      // A beat that was given up, and answers late: the one after it has joined anew.
      if (this.#id !== id) return;
      this.#log.warn("this process was evicted from the fleet: it joins anew");
    }
    await this.#join(session);
  }

  /**
   * Says what is held now, and acknowledges; writes only when there is something new to say.
   * @throws KekError `fenced` when this process was evicted meanwhile.
   */
  async tell(session: Session, acked: Acked | undefined): Promise<void> {
    const fields = { ...this.#fields(), acked: acked ?? null };
    const text = JSON.stringify(fields);
    if (this.#id === undefined || text === this.#told) return;
    if (!(await beat(this.#store, session, this.#id, fields))) {
      this.#acked = undefined;
      throw new KekError("fenced", "this process was evicted from the fleet", "it joins anew by itself");
    }
    this.#told = text;
    this.#acked = acked;
  }

  async leave(): Promise<void> {
    if (this.#id !== undefined) await leave(this.#store, this.#id);
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #join(session: Session): Promise<void> {
    const { beatMs, leaseMs, evictionMs, drainMs } = this.#config.fleet;
    this.#acked = undefined;
    this.#told = "";
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
