import type { Config } from "../config/config.ts";
import { auditTail } from "../store/audit_tail.ts";
import { type CensusRow, countVersions } from "../store/census.ts";
import type { InstallDoc } from "../store/documents.ts";
import { readFields } from "../store/fields.ts";
import { readRoster } from "../store/heartbeats.ts";
import { rotationHistory } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import { type Store, serverNow } from "../store/store.ts";
import type { StatusView } from "./status_view.ts";
import { viewOf } from "./view.ts";

const HISTORY = 50;
const AUDIT_EVENTS = 12;
/** Counting takes a part of a second for each million records: no more than a twentieth of the time goes into it. */
const REST_AFTER_COUNT = 20;

interface Census {
  rows: CensusRow[];
  at: Date;
  /** The state that it was counted in: records of the next one would look astray. */
  epoch: number;
  takenAt: number;
  tookMs: number;
}

/** Reads what there is, again and again: for whoever shows it live. */
export class StatusReader {
  readonly #store: Store;
  readonly #install: InstallDoc;
  readonly #config: Config;
  #census: Census | undefined;
  /** Shared by readers that gave up waiting for it: a long count is not begun anew each time. */
  #counting: Promise<Census> | undefined;

  constructor(store: Store, install: InstallDoc, config: Config) {
    this.#store = store;
    this.#install = install;
    this.#config = config;
  }

  /** @throws KekError `mongodb_…`, `document_invalid`, `document_newer`. */
  async read(): Promise<StatusView> {
    const store = this.#store;
    const { audit, fleet, rotationPeriodMs } = this.#config;
    const [state, roster, history, tail, now] = await Promise.all([
      readState(store),
      readRoster(store),
      rotationHistory(store, HISTORY),
      auditTail(store, audit.secret, AUDIT_EVENTS),
      serverNow(store),
    ]);
    return viewOf({
      now,
      install: this.#install,
      state,
      roster,
      census: await this.#counted(now, state.rotation?.epoch ?? 0),
      history,
      audit: tail,
      times: fleet,
      rotationPeriodMs,
    });
  }

  /** Counted in this state, and not long ago. */
  async #counted(now: Date, epoch: number): Promise<Census> {
    for (;;) {
      const last = this.#census;
      if (last?.epoch === epoch && performance.now() - last.takenAt < last.tookMs * REST_AFTER_COUNT) return last;
      this.#counting ??= this.#count(now, epoch).finally(() => {
        this.#counting = undefined;
      });
      const counted = await this.#counting;
      if (counted.epoch >= epoch) return counted;
    }
  }

  async #count(at: Date, epoch: number): Promise<Census> {
    const began = performance.now();
    const rows = await countVersions(this.#store, await readFields(this.#store));
    const takenAt = performance.now();
    this.#census = { rows, at, epoch, takenAt, tookMs: takenAt - began };
    return this.#census;
  }
}
