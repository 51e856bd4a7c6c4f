import type { Config } from "../config/config.ts";
import { auditTail } from "../store/audit_tail.ts";
import { takeCensus } from "../store/census.ts";
import type { InstallDoc } from "../store/documents.ts";
import { readFieldFacts } from "../store/field_facts.ts";
import { readFields } from "../store/fields.ts";
import { readRoster } from "../store/heartbeats.ts";
import { rotationHistory } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import { type Store, serverNow } from "../store/store.ts";
import type { StatusFacts } from "./facts.ts";
import { type Census, type Counts, KeptCensus } from "./kept_census.ts";
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
    this.#census = new KeptCensus(() => readCounts(store));
  }

  /** @throws KekError `mongodb_…`, `document_invalid`, `document_newer`. */
  async read(): Promise<StatusView> {
    return viewOf(
      await readFacts(this.#store, this.#install, this.#config, (epoch, now) => this.#census.of(epoch, now)),
    );
  }
}

/** The version counts, and how the fields stand. */
export async function readCounts(store: Store): Promise<Counts> {
  const fields = await readFields(store);
  const [rows, facts] = await Promise.all([takeCensus(store, fields), readFieldFacts(store, fields)]);
  return { rows, fields: facts };
}

/**
 * Everything that findings are made from, as `kek status` and `kek verify` both have them.
 * @param count the version counts, and how the fields stand, in the state of an epoch.
 * @throws KekError `mongodb_…`, `document_invalid`, `document_newer`.
 */
export async function readFacts(
  store: Store,
  install: InstallDoc,
  { audit, fleet, rotationPeriodMs }: Pick<Config, "audit" | "fleet" | "rotationPeriodMs">,
  count: (epoch: number, now: Date) => Promise<Census>,
): Promise<StatusFacts> {
  const [state, roster, history, tail, now] = await Promise.all([
    readState(store),
    readRoster(store),
    rotationHistory(store, HISTORY),
    auditTail(store, audit.secret, AUDIT_EVENTS),
    serverNow(store),
  ]);
  const { fields, ...census } = await count(state.rotation?.epoch ?? 0, now);
  return { now, install, state, roster, census, fields, history, audit: tail, times: fleet, rotationPeriodMs };
}
