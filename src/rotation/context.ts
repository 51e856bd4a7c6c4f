import type { Config } from "../config/config.ts";
import type { FieldCount, InstallDoc, Phase } from "../protocol/documents.ts";
import { leaseMsOf } from "../protocol/fleet_times.ts";
import type { Provider } from "../providers/provider.ts";
import type { Auditor } from "../store/audit_log.ts";
import { readRoster } from "../store/heartbeats.ts";
import type { Store } from "../store/store.ts";

/** What every command of a rotation works with. */
export interface Context {
  store: Store;
  config: Config;
  install: InstallDoc;
  provider: Provider;
  auditor: Auditor;
}

export interface Progress {
  rotation: number;
  from: number;
  to: number;
  fields: FieldCount[];
  /** Records a second over the last seconds. */
  rate: number;
  /** Seconds left, when it can be told. */
  eta: number | undefined;
}

/** Told while a rotation runs. Who shows it is decided by the command. */
export interface Reporter {
  note(message: string): void;
  phase(phase: Phase, meaning: string): void;
  /** Whom the coordinator waits for; called again as the list changes, and with an empty one at the end. */
  waiting(forWhat: string, names: string[]): void;
  progress(progress: Progress): void;
}

/** How long MongoDB may take over one batch of a process with this lease, in milliseconds. */
export function batchLimitMs(config: Config): number {
  return Math.min(10_000, Math.max(1000, Math.round(config.fleet.leaseMs / 3)));
}

type Fleet = Pick<Context, "store" | "config">;

/** The longest lease that any process of the fleet announces, or this command has, in milliseconds. */
export async function longestLeaseMs({ store, config }: Fleet): Promise<number> {
  const leases = (await readRoster(store)).map((member) => leaseMsOf(member, config.fleet));
  return Math.max(config.fleet.leaseMs, ...leases);
}

/** How long MongoDB may take over a batch of any of them: a successor waits for it, whoever had the lease. */
export async function longestBatchMs(fleet: Fleet): Promise<number> {
  const { config } = fleet;
  return batchLimitMs({ ...config, fleet: { ...config.fleet, leaseMs: await longestLeaseMs(fleet) } });
}

/**
 * How long a write may be on its way that its process began before it fenced itself, in milliseconds: the longest lease and the
 * time of a batch. Two zero counts are at least so far apart.
 */
export async function lateWriteMs(fleet: Fleet): Promise<number> {
  return (await longestLeaseMs(fleet)) + (await longestBatchMs(fleet));
}
