import { expect, test } from "bun:test";
import { KekError } from "../../src/errors/errors.ts";
import { type Observed, observed } from "../../src/fleet/operation_observer.ts";
import { TokenCounters } from "../../src/providers/pkcs11/token_counters.ts";
import { OperationMetrics, textOf } from "../../src/server/metrics/exposition.ts";
import { INSTALL_METRICS } from "../../src/server/metrics/install_metrics.ts";
import { PROCESS_METRICS, type ProcessFacts } from "../../src/server/metrics/process_metrics.ts";
import type { ProcessView, RotationView, StatusView, VersionView } from "../../src/status/status_view.ts";
import { PROMTOOL, parseExposition, promtool } from "../harness/exposition.ts";

/** From the view to metrics: the figures, the labels, and that labels stay few. */

const AT = "2026-11-22T12:00:00.000Z";

function version(over: Partial<VersionView>): VersionView {
  return {
    version: 1,
    state: "active",
    canary: { verified_by: 2, of: 2, wrong_key: [] },
    records: 100,
    wraps: 2 ** 31,
    wraps_percent: 50,
    since: AT,
    age_ms: 90_000,
    due_at: "2026-11-22T12:00:01.500Z",
    overdue: false,
    backup_verified_at: null,
    ...over,
  };
}

function member(over: Partial<ProcessView>): ProcessView {
  return {
    id: "id-1",
    name: "api-1",
    role: "api",
    host: "h1",
    pid: 1,
    provider: "env",
    loaded: [1, 2],
    current_version: 2,
    write_version: 1,
    acked: null,
    acknowledged: null,
    started_at: AT,
    last_beat_ms: 400,
    silent: false,
    problems: [],
    ...over,
  };
}

function rotation(over: Partial<RotationView>): RotationView {
  return {
    rotation: 3,
    from: 1,
    to: 2,
    phase: 2,
    state: "running",
    epoch: 9,
    started_at: "2026-11-22T11:50:00.000Z",
    started_by: "library x",
    ended_at: null,
    duration_ms: 600_000,
    phase_times: { "1": "2026-11-22T11:50:00.000Z", "2": "2026-11-22T11:59:00.000Z" },
    coordinator: "host/1",
    led: true,
    lease_ran_out_ms: null,
    fields: [
      { field: "a:x", done: 70, remaining: 30, failed: 2 },
      { field: "b:y.z", done: 1, remaining: 0, failed: 0 },
    ],
    done: 71,
    remaining: 30,
    failed_count: 2,
    failed: [{ field: "a:x", id: '{"$oid":"secretish"}', reason: "does not open" }],
    rate: 12.5,
    eta_ms: 2400,
    pace: [],
    acknowledged: ["api-1"],
    awaited: ["api-2", "worker-1"],
    fenced: [],
    unfenced: [],
    next_steps: [],
    reverses: null,
    ...over,
  };
}

function view(over: Partial<StatusView> = {}): StatusView {
  return {
    at: AT,
    health: { level: "in_progress", headline: "…", findings: [] },
    install: { provider: "env", install_id: "the-install", locked_at: AT, locked_by: "service" },
    phase: 2,
    write_version: 2,
    versions: [version({}), version({ version: 2, state: "staged", records: 3, due_at: null, wraps: 5 })],
    version_counts: [],
    version_counts_at: AT,
    rotation: rotation({}),
    history: [],
    processes: [],
    drift: [],
    wraps: [],
    audit: { events: [], chain: { state: "whole", checked: 2, fault: null } },
    ...over,
  };
}

const told = async (over?: Partial<StatusView>) => parseExposition(await textOf(INSTALL_METRICS, view(over)));

test("versions: state, records, wraps, age, when they are due", async () => {
  const scrape = await told();
  const of = (name: string, number: string) => scrape.value(`certautopilot_version_${name}`, { version: number });
  expect(scrape.value("certautopilot_version_info", { version: "1", state: "active" })).toBe(1);
  expect([of("records", "1"), of("records", "2")]).toEqual([100, 3]);
  expect([of("wraps_total", "1"), of("wraps_ratio", "1"), of("wraps_ratio", "2")]).toEqual([2 ** 31, 0.5, 5 / 2 ** 32]);
  expect(of("age_seconds", "1")).toBe(90);
  expect(of("due_timestamp_seconds", "1")).toBe(Date.parse(AT) / 1000 + 1.5);
  expect(scrape.values("certautopilot_version_due_timestamp_seconds", { version: "2" })).toEqual([]);
  expect(of("overdue", "1")).toBe(0);
});

test("the rotation: by field, its pace, whom it waits for; no record is named", async () => {
  const scrape = await told();
  const records = (field: string, outcome: string) =>
    scrape.value("certautopilot_rotation_records", { field, outcome });
  expect([records("a:x", "done"), records("a:x", "remaining"), records("a:x", "failed")]).toEqual([70, 30, 2]);
  expect(records("b:y.z", "done")).toBe(1);
  const one = (name: string) => scrape.value(`certautopilot_rotation_${name}`);
  expect([one("open"), one("phase"), one("phase_seconds"), one("led")]).toEqual([1, 2, 60, 1]);
  expect([one("records_per_second"), one("eta_seconds")]).toEqual([12.5, 2.4]);
  expect([one("awaited_processes"), one("acknowledged_processes")]).toEqual([2, 1]);
  expect(scrape.text).not.toContain("secretish");
  const late = await told({ rotation: rotation({ lease_ran_out_ms: 7000, rate: null, eta_ms: null }) });
  expect(late.value("certautopilot_rotation_led")).toBe(0);
  expect(late.value("certautopilot_rotation_lease_overdue_seconds")).toBe(7);
  expect(late.value("certautopilot_rotation_records_per_second")).toBe(0);
  expect(late.values("certautopilot_rotation_eta_seconds")).toEqual([]);
  const cancelled = await told({ rotation: rotation({ state: "cancelled", coordinator: null }) });
  expect(cancelled.value("certautopilot_rotation_led")).toBe(0);
});

test("no rotation: what is of the open one is absent, not zero; the last one and its fence are told", async () => {
  const ended = { ended_at: AT, state: "reverted" as const, fenced: [1], unfenced: ["a"], duration_ms: 4200 };
  const scrape = await told({ phase: 0, rotation: null, history: [rotation(ended), rotation({ fenced: [9] })] });
  expect(scrape.value("certautopilot_rotation_open")).toBe(0);
  for (const name of ["phase_seconds", "led", "records", "eta_seconds", "awaited_processes", "info"])
    expect(scrape.values(`certautopilot_rotation_${name}`)).toEqual([]);
  expect(scrape.value("certautopilot_last_rotation_info", { rotation: "3", outcome: "reverted" })).toBe(1);
  expect(scrape.value("certautopilot_last_rotation_duration_seconds")).toBe(4.2);
  expect(scrape.value("certautopilot_last_rotation_ended_timestamp_seconds")).toBe(Date.parse(AT) / 1000);
  expect(scrape.value("certautopilot_version_fenced", { version: "1" })).toBe(1);
  expect(scrape.value("certautopilot_version_fenced", { version: "2" })).toBe(0);
  expect(scrape.value("certautopilot_unfenced_collections")).toBe(1);
});

test("processes of one name, role and host are counted together: their ids make no series", async () => {
  const processes = [
    member({ id: "one", pid: 11, last_beat_ms: 400 }),
    member({ id: "two", pid: 12, last_beat_ms: 90_000, silent: true, loaded: [1], write_version: null }),
    member({ id: "three", pid: 13, name: "worker-1", role: "worker", current_version: null }),
  ];
  const problem = { message: "m", hint: "h" };
  const drift = [{ ...problem, code: "declares_other" as const, process: "two" }];
  const scrape = await told({ processes: [...processes, member({ id: "four", problems: [problem, problem] })], drift });
  const api = (name: string, more = {}) => scrape.value(`certautopilot_fleet_${name}`, { name: "api-1", ...more });
  expect([api("processes"), api("silent_processes"), api("last_heartbeat_age_seconds")]).toEqual([3, 1, 90]);
  expect([api("problems"), api("drift")]).toEqual([2, 1]);
  expect([api("loaded_processes", { version: "1" }), api("loaded_processes", { version: "2" })]).toEqual([3, 2]);
  expect(api("writing_processes", { version: "1" })).toBe(2);
  expect(scrape.values("certautopilot_fleet_declaring_processes", { name: "worker-1" })).toEqual([]);
  expect(scrape.text).not.toMatch(/"(one|two|three|four|11|12|13)"/);
});

test("the version counts: what is no version's number is one row", async () => {
  const version_counts = [
    { field: "a:x", version: "1", count: 5 },
    { field: "a:x", version: '{"$numberLong":"1"}', count: 2 },
    { field: "a:x", version: '"1"', count: 3 },
    { field: 'b:"y"\\', version: "2", count: 1 },
  ];
  const scrape = await told({ version_counts });
  const at = (label: string) => scrape.value("certautopilot_version_counts", { field: "a:x", version: label });
  expect([at("1"), at("other")]).toEqual([5, 5]);
  expect(scrape.text).toContain('field="b:\\"y\\"\\\\",version="2"} 1');
});

const FACTS: ProcessFacts = {
  build: { version: "1", runtime: "bun", runtimeVersion: "2" },
  name: "api-1",
  role: "api",
  ready: false,
  writeVersion: undefined,
  standing: { syncAgeMs: 1500, acked: undefined, loaded: [], token: undefined },
  cpu: { user: 1_500_000, system: 250_000 },
  memory: { rss: 10, heapUsed: 5 },
  startedAtMs: 2000,
  eventLoopLagMs: 30,
};

test("this process: without a token nothing is said of one; faults are told by kind", async () => {
  const plain = parseExposition(await textOf(PROCESS_METRICS, FACTS));
  expect(plain.value("certautopilot_ready")).toBe(0);
  expect(plain.value("certautopilot_acknowledged")).toBe(0);
  expect(plain.value("certautopilot_sync_age_seconds")).toBe(1.5);
  expect(plain.value("certautopilot_process_cpu_seconds_total", { mode: "user" })).toBe(1.5);
  expect([...plain.names].filter((name) => name.includes("hsm"))).toEqual([]);
  const tally = new TokenCounters();
  tally.opened();
  tally.opened();
  tally.closed();
  tally.using(3, () => new TokenCounters(tally.memory).fault("unavailable"));
  const token = { ...tally.read(), renewals: 1, hung: 0, limit: 4, unavailable: true };
  const hsm = parseExposition(await textOf(PROCESS_METRICS, { ...FACTS, standing: { ...FACTS.standing, token } }));
  expect(hsm.value("certautopilot_hsm_faults_total", { kind: "unavailable" })).toBe(1);
  expect(hsm.value("certautopilot_hsm_faults_total", { kind: "data" })).toBe(0);
  expect(hsm.value("certautopilot_hsm_sessions", { state: "open" })).toBe(1);
  expect(hsm.value("certautopilot_hsm_sessions", { state: "busy" })).toBe(0);
  expect(hsm.value("certautopilot_hsm_sessions_opened_total")).toBe(2);
  expect([hsm.value("certautopilot_hsm_uses_total"), hsm.value("certautopilot_hsm_up")]).toEqual([3, 0]);
});

test("operations are told with outcome and time; the work's own result and error come through", async () => {
  const seen: Observed[] = [];
  const observe = (one: Observed) => void seen.push(one);
  const refused = new KekError("fenced", "m", "h");
  expect(await observed(observe, "encrypt", "env", () => 7)).toBe(7);
  const failing = (error: Error) =>
    observed(observe, "unwrap", "pkcs11", () => Promise.reject(error)) as Promise<never>;
  await expect(failing(refused)).rejects.toBe(refused);
  await expect(failing(new TypeError("x"))).rejects.toThrow("x");
  expect(seen.map(({ operation, provider, outcome }) => [operation, provider, outcome])).toEqual([
    ["encrypt", "env", "ok"],
    ["unwrap", "pkcs11", "fenced"],
    ["unwrap", "pkcs11", "other"],
  ]);
  expect(observed(undefined, "encrypt", "env", () => 7)).toBe(7);
  const metrics = new OperationMetrics("env");
  for (const seconds of [0.00003, 0.002, 40]) metrics.observe({ ...(seen[0] as Observed), seconds });
  const scrape = parseExposition(await metrics.text());
  const count = (labels: Record<string, string>) =>
    scrape.value("certautopilot_operation_duration_seconds_count", { provider: "env", outcome: "ok", ...labels });
  expect([count({ operation: "encrypt" }), count({ operation: "decrypt" })]).toEqual([3, 0]);
  const bucket = (le: string) =>
    scrape.value("certautopilot_operation_duration_seconds_bucket", { operation: "encrypt", le });
  expect([bucket("0.000025"), bucket("0.00005"), bucket("30"), bucket("+Inf")]).toEqual([0, 1, 2, 3]);
});

test.skipIf(PROMTOOL === undefined)("promtool has nothing to say against names, units and texts", async () => {
  const history = [rotation({ ended_at: AT })];
  const install = await textOf(INSTALL_METRICS, view({ history, processes: [member({})] }));
  const token = { ...new TokenCounters().read(), renewals: 0, hung: 0, limit: 4, unavailable: false };
  const own = await textOf(PROCESS_METRICS, { ...FACTS, standing: { ...FACTS.standing, token } });
  const operations = await new OperationMetrics("env").text();
  expect(promtool(["check", "metrics"], [install, own, operations].join("\n"))).toBe("");
});
