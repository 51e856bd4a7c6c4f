import type { Buffer } from "node:buffer";
import process from "node:process";
import type { SyslogTarget } from "../config/config.ts";
import { hostName } from "../config/environment.ts";
import { messageOf } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { AuditEntry } from "./chain.ts";
import type { AuditSink } from "./sink.ts";
import { type Carrier, carrierTo } from "./syslog_carrier.ts";
import { syslogMessage } from "./syslog_message.ts";

/** How many events wait for a receiver that is unavailable; the oldest give way. */
const WAITING = 1000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;
/** How long the end of a process is held up for what is still to be sent. */
const CLOSING_MS = 3000;

/** Syslog, beside the work: no event waits for it, and a receiver that is unavailable is told of once. */
export class SyslogSink implements AuditSink {
  readonly #name: string;
  readonly #carrier: Carrier;
  readonly #log: Log;
  readonly #waiting: Buffer[] = [];
  #sending: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #away = false;
  #dropped = 0;
  #closed = false;

  constructor(target: SyslogTarget, log: Log) {
    const host = target.host.includes(":") ? `[${target.host}]` : target.host;
    this.#name = `syslog at ${target.transport}://${host}:${target.port}`;
    this.#carrier = carrierTo(target);
    this.#log = log;
  }

  write(entries: readonly AuditEntry[]): void {
    const originator = { host: hostName(), pid: process.pid };
    for (const entry of entries) this.#waiting.push(syslogMessage(entry, originator));
    while (this.#waiting.length > WAITING) {
      this.#waiting.shift();
      this.#dropped += 1;
    }
    if (this.#waiting.length > 0) this.#sending ??= this.#send();
  }

  async close(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOSING_MS)));
    // One more try at once, for a receiver that was unavailable.
    this.#closed = true;
    this.#wake?.();
    await Promise.race([this.#sending, late]);
    await Promise.race([this.#carrier.close(), late]);
    clearTimeout(timer);
    const lost = this.#waiting.length + this.#dropped;
    if (lost > 0) this.#log.warn(`${lost} audit events did not reach ${this.#name}; audit_log has them`);
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #send(): Promise<void> {
    let pause = FIRST_PAUSE_MS;
    while (this.#waiting[0] !== undefined) {
      const message = this.#waiting[0];
      const last = this.#closed;
      try {
        await this.#carrier.send(message);
      } catch (thrown) {
        this.#tellAway(thrown);
        if (last) return;
        await this.#pause(pause);
        pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
        continue;
      }
      // The oldest may have given way while this one was under way.
      if (this.#waiting[0] === message) this.#waiting.shift();
      pause = FIRST_PAUSE_MS;
      this.#tellBack();
    }
    // At once, so that an event that comes in now begins again.
    this.#sending = undefined;
  }

  async #pause(ms: number): Promise<void> {
    if (this.#closed) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }

  #tellAway(thrown: unknown): void {
    if (this.#away) return;
    this.#away = true;
    this.#log.warn(
      `audit events do not reach ${this.#name}: ${messageOf(thrown)}; audit_log has them, and they are sent when it answers`,
    );
  }

  #tellBack(): void {
    if (!this.#away) return;
    this.#away = false;
    const lost = this.#dropped === 0 ? "" : `; ${this.#dropped} audit events were not kept for it, audit_log has them`;
    this.#dropped = 0;
    this.#log.info(`${this.#name} takes audit events again${lost}`);
  }
}
