import type { Config } from "../config/config.ts";
import type { InstallDoc } from "../protocol/documents.ts";
import { auditTail } from "../store/audit_tail.ts";
import { readFieldFacts } from "../store/field_facts.ts";
import { readFields } from "../store/fields.ts";
import { readRoster } from "../store/heartbeats.ts";
import { rotationHistory } from "../store/rotations.ts";
import { readState } from "../store/state.ts";
import { type Store, serverNow } from "../store/store.ts";
import { countVersions } from "../store/version_counts.ts";
import { viewOf } from "./build_status_view.ts";
import { CachedVersionCounts, type Counts, type VersionCountsAt } from "./cached_version_counts.ts";
import type { StatusFacts } from "./status_facts.ts";
import type { StatusView } from "./status_view.ts";

const HISTORY = 50;
const AUDIT_EVENTS = 12;

/** Reads what there is, again and again: for whoever shows it live. */
export class StatusReader {
  readonly #store: Store;
  readonly #install: InstallDoc;
  readonly #config: Config;
  readonly #versionCounts: CachedVersionCounts;

  constructor(store: Store, install: InstallDoc, config: Config) {
    this.#store = store;
    this.#install = install;
    this.#config = config;
    this.#versionCounts = new CachedVersionCounts(() => readCounts(store));
  }

  /** @throws KekError `mongodb_…`, `document_invalid`, `unsupported_format`. */
  async read(): Promise<StatusView> {
    return viewOf(
      await readFacts(this.#store, this.#install, this.#config, (epoch, now) => this.#versionCounts.of(epoch, now)),
    );
  }
}

/** The version counts, and how the fields stand. */
export async function readCounts(store: Store): Promise<Counts> {
  const fields = await readFields(store);
  const [rows, facts] = await Promise.all([countVersions(store, fields), readFieldFacts(store, fields)]);
  return { rows, fields: facts };
}

/**
 * Everything that findings are made from, as `kek status` and `kek verify` both have them.
 * @param count the version counts, and how the fields stand, in the state of an epoch.
 * @throws KekError `mongodb_…`, `document_invalid`, `unsupported_format`.
 */
export async function readFacts(
  store: Store,
  install: InstallDoc,
  { audit, fleet, rotationPeriodMs }: Pick<Config, "audit" | "fleet" | "rotationPeriodMs">,
  count: (epoch: number, now: Date) => Promise<VersionCountsAt>,
): Promise<StatusFacts> {
  const [state, roster, history, tail, now] = await Promise.all([
    readState(store),
    readRoster(store),
    rotationHistory(store, HISTORY),
    auditTail(store, audit.secret, AUDIT_EVENTS),
    serverNow(store),
  ]);
  const { fields, ...versionCounts } = await count(state.rotation?.epoch ?? 0, now);
  return { now, install, state, roster, versionCounts, fields, history, audit: tail, times: fleet, rotationPeriodMs };
}
