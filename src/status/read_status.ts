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
  /** By MongoDB's clock, once that is known. */
  at: Date | undefined;
  takenAt: number;
  tookMs: number;
}

/** Reads what there is, again and again: for whoever shows it live. */
export class StatusReader {
  readonly #store: Store;
  readonly #install: InstallDoc;
  readonly #config: Config;
  #census: Census | undefined;

  constructor(store: Store, install: InstallDoc, config: Config) {
    this.#store = store;
    this.#install = install;
    this.#config = config;
  }

  /** @throws KekError `mongodb_…`, `document_invalid`, `document_newer`. */
  async read(): Promise<StatusView> {
    const store = this.#store;
    const { audit, fleet, rotationPeriodMs } = this.#config;
    const [state, roster, history, tail, now, census] = await Promise.all([
      readState(store),
      readRoster(store),
      rotationHistory(store, HISTORY),
      auditTail(store, audit.secret, AUDIT_EVENTS),
      serverNow(store),
      this.#counted(),
    ]);
    census.at ??= now;
    return viewOf({
      now,
      install: this.#install,
      state,
      roster,
      census: { rows: census.rows, at: census.at },
      history,
      audit: tail,
      times: fleet,
      rotationPeriodMs,
    });
  }

  async #counted(): Promise<Census> {
    const last = this.#census;
    const began = performance.now();
    if (last !== undefined && began - last.takenAt < last.tookMs * REST_AFTER_COUNT) return last;
    const rows = await countVersions(this.#store, await readFields(this.#store));
    const takenAt = performance.now();
    this.#census = { rows, at: undefined, takenAt, tookMs: takenAt - began };
    return this.#census;
  }
}
