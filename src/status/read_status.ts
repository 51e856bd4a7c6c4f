import type { Config } from "../config/config.ts";
import { auditTail } from "../store/audit_tail.ts";
import { countVersions } from "../store/census.ts";
import type { InstallDoc } from "../store/documents.ts";
import { readFields } from "../store/fields.ts";
import { readRoster } from "../store/heartbeats.ts";
import { rotationHistory } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import { type Store, serverNow } from "../store/store.ts";
import { KeptCensus } from "./kept_census.ts";
import type { StatusView } from "./status_view.ts";
import { viewOf } from "./view.ts";

const HISTORY = 50;
const AUDIT_EVENTS = 12;

/** Reads what there is, again and again: for whoever shows it live. */
export class StatusReader {
  readonly #store: Store;
  readonly #install: InstallDoc;
  readonly #config: Config;
  readonly #census: KeptCensus;

  constructor(store: Store, install: InstallDoc, config: Config) {
    this.#store = store;
    this.#install = install;
    this.#config = config;
    this.#census = new KeptCensus(async () => await countVersions(store, await readFields(store)));
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
      census: await this.#census.of(state.rotation?.epoch ?? 0, now),
      history,
      audit: tail,
      times: fleet,
      rotationPeriodMs,
    });
  }
}
