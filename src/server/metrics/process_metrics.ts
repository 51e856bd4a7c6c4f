import type { Standing } from "../../fleet/join.ts";
import type { TokenCounts } from "../../providers/provider.ts";
import { labelled, type Metric, single } from "./metric.ts";

/** What is known of this process without asking anybody. */
export interface ProcessFacts {
  build: { version: string; runtime: string; runtimeVersion: string };
  name: string;
  role: string;
  ready: boolean;
  writeVersion: number | undefined;
  standing: Standing;
  /** In microseconds, since the process began. */
  cpu: { user: number; system: number };
  memory: { rss: number; heapUsed: number };
  startedAtMs: number;
  eventLoopLagMs: number;
}

/** This process: pure. */
export const PROCESS_METRICS: Metric<ProcessFacts>[] = [
  labelled(
    "certautopilot_build_info",
    "The release, and what runs it; 1.",
    ["version", "runtime", "runtime_version"],
    ({ build }) => [[[build.version, build.runtime, build.runtimeVersion], 1]],
  ),
  labelled(
    "certautopilot_process_info",
    "How this process is called in the fleet's metrics; 1.",
    ["name", "role"],
    ({ name, role }) => [[[name, role], 1]],
  ),
  single(
    "certautopilot_ready",
    "1 while this process may encrypt: it has acknowledged, its lease holds, its key can be used.",
    ({ ready }) => ready,
  ),
  single(
    "certautopilot_sync_age_seconds",
    "Time since this process last looked at the state in MongoDB with success; beyond its lease it fences itself.",
    ({ standing }) => (standing.syncAgeMs === undefined ? undefined : standing.syncAgeMs / 1000),
  ),
  single(
    "certautopilot_acknowledged",
    "1 once this process has acknowledged a state of the protocol, 0 until then and after an eviction.",
    ({ standing }) => standing.acked !== undefined,
  ),
  single(
    "certautopilot_acknowledged_phase",
    "The phase that this process acknowledged last: 0 steady, 1 announce, 2 re-wrap, 3 settle.",
    ({ standing }) => standing.acked?.phase,
  ),
  single(
    "certautopilot_acknowledged_epoch",
    "The epoch that this process acknowledged last; it grows with each change of phase or state.",
    ({ standing }) => standing.acked?.epoch,
  ),
  single(
    "certautopilot_write_version",
    "The KEK version that this process writes under.",
    ({ writeVersion }) => writeVersion,
  ),
  labelled("certautopilot_loaded_version", "A KEK version that this process holds; 1.", ["version"], ({ standing }) =>
    standing.loaded.map((version) => [[version], 1]),
  ),
  ofToken(
    "certautopilot_hsm_up",
    "0 while the token's last answer was that it is unavailable.",
    ({ unavailable }) => !unavailable,
  ),
  ofToken(
    "certautopilot_hsm_uses_total",
    "Pieces of work that sessions were given: a wrap with its verification, an unwrap, a look for a key. However often one is tried.",
    ({ uses }) => uses,
    "counter",
  ),
  labelled(
    "certautopilot_hsm_faults_total",
    "What the token answered instead of doing what it was asked, by kind (`lost` session, `module`, `pin`, `unsupported`, `no_session`, `data`, `unavailable`, `wrap_mismatch`); also where the next try went well.",
    ["kind"],
    ({ standing: { token } }) => Object.entries(token?.faults ?? {}).map(([kind, value]) => [[kind], value]),
    "counter",
  ),
  labelled(
    "certautopilot_hsm_sessions",
    "Sessions with the token: open, busy (at work, or opening and trying again for it), hung (nobody waits for them any more).",
    ["state"],
    ({ standing: { token } }) =>
      token === undefined
        ? []
        : (["open", "busy", "hung"] as const).map((state): [string[], number] => [[state], token[state]]),
  ),
  ofToken("certautopilot_hsm_sessions_limit", "Sessions that this process may open.", ({ limit }) => limit),
  ofToken(
    "certautopilot_hsm_sessions_opened_total",
    "Sessions opened, first ones and those in place of lost ones.",
    ({ opened }) => opened,
    "counter",
  ),
  ofToken(
    "certautopilot_hsm_module_renewals_total",
    "Times that the PKCS#11 module was initialized again, when a session could not be had otherwise.",
    ({ renewals }) => renewals,
    "counter",
  ),
  labelled(
    "certautopilot_process_cpu_seconds_total",
    "Processor time of this process.",
    ["mode"],
    ({ cpu }) => (["user", "system"] as const).map((mode) => [[mode], cpu[mode] / 1e6]),
    "counter",
  ),
  single("certautopilot_process_resident_memory_bytes", "Memory of this process.", ({ memory }) => memory.rss),
  single("certautopilot_process_heap_bytes", "Of that, JavaScript objects in use.", ({ memory }) => memory.heapUsed),
  single(
    "certautopilot_process_start_timestamp_seconds",
    "When this process began.",
    ({ startedAtMs }) => startedAtMs / 1000,
  ),
  single(
    "certautopilot_event_loop_lag_seconds",
    "The longest that a timer was late in the last 30 seconds.",
    ({ eventLoopLagMs }) => eventLoopLagMs / 1000,
  ),
];

// ---------------------------------------------------------------------------------------------------------------------

/** Absent where keys are in this process's memory. */
function ofToken(
  name: string,
  help: string,
  value: (token: TokenCounts) => number | boolean,
  type: "gauge" | "counter" = "gauge",
): Metric<ProcessFacts> {
  return single(name, help, ({ standing: { token } }) => (token === undefined ? undefined : value(token)), type);
}
