import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startPrivateMongod } from "../../src/demo/private_mongod.ts";
import { type Observed, openFieldEncryption } from "../../src/index.ts";
import { OPERATION_METRIC } from "../../src/server/metrics/exposition.ts";
import { INSTALL_METRICS, STATUS_UP } from "../../src/server/metrics/install_metrics.ts";
import { PROCESS_METRICS } from "../../src/server/metrics/process_metrics.ts";
import { metricsIn, PROMTOOL, parseExposition, promtool, type Scrape } from "../harness/exposition.ts";
import { addressOf, hsmInstall, made } from "../harness/hsm_install.ts";
import { libraryConfig, seed } from "../harness/library.ts";
import { type Running, start, stop, testInstall, until } from "../harness/program.ts";

/** /metrics of real processes through a rotation, without MongoDB and without the HSM; rules, dashboard and docs held to it. */

const ROOT = join(import.meta.dir, "../..");
const ALERTS = join(ROOT, "deploy/prometheus/alerts.yml");

/** Every name that a process has told in this file. */
const exported = new Set<string>();

async function scrape(serving: Running): Promise<Scrape> {
  const response = await fetch(`${addressOf(serving)}/metrics`, { signal: AbortSignal.timeout(10_000) });
  expect([response.status, response.headers.get("content-type")]).toEqual([
    200,
    "text/plain; version=0.0.4; charset=utf-8",
  ]);
  const found = parseExposition(await response.text());
  for (const name of found.names) exported.add(name);
  return found;
}

/** Scrapes until it is so, and returns what was told then. */
async function scrapeUntil(what: string, serving: Running, holds: (told: Scrape) => boolean): Promise<Scrape> {
  let told = await scrape(serving);
  await until(what, async () => {
    told = await scrape(serving);
    return holds(told);
  });
  return told;
}

test("a fleet through a rotation: before, during, after", async () => {
  const install = await testInstall();
  const seen: Observed[] = [];
  const kek = await openFieldEncryption(libraryConfig(install, [1, 2], 1, "seeder"), {
    observe: (one) => seen.push(one),
  });
  await seed(kek, install, 600);
  await expect(kek.decrypt({ format: 1 }, { collection: "secrets", id: 1, field: "value" })).rejects.toThrow();
  await kek.close();
  const outcomes = (operation: string, outcome: string) =>
    seen.filter((one) => one.operation === operation && one.outcome === outcome).length;
  expect([outcomes("encrypt", "ok"), outcomes("wrap", "ok")]).toEqual([600, 600]);
  expect(outcomes("decrypt", "envelope_invalid")).toBe(1);
  expect(seen.every(({ seconds, provider }) => seconds >= 0 && seconds < 60 && provider === "env")).toBe(true);

  const api = await install.serve("api-1", [1, 2], 2);
  const deno = await install.serve("api-2", [1, 2], 2, {}, "deno");
  const before = await scrape(api);
  const one = (told: Scrape, name: string, labels?: Record<string, string>) =>
    told.value(`certautopilot_${name}`, labels);
  expect([one(before, "ready"), one(before, "status_up"), one(before, "rotation_open")]).toEqual([1, 1, 0]);
  expect(one(before, "version_info", { version: "2", state: "staged" })).toBe(1);
  expect(one(before, "version_counts", { field: "secrets:value", version: "1" })).toBe(600);
  // Both declare what is to come.
  expect(one(before, "fleet_drift", { name: "api-2" })).toBe(1);
  expect([...(await scrape(deno)).names].sort()).toEqual([...before.names].sort());

  deno.kill("SIGSTOP");
  const silent = await scrapeUntil("one is silent", api, (told) =>
    told.values("certautopilot_fleet_silent_processes", { name: "api-2" }).includes(1),
  );
  expect(one(silent, "fleet_last_heartbeat_age_seconds", { name: "api-2" })).toBeGreaterThan(1.5);
  expect(one(silent, "health", { level: "problem" })).toBe(1);
  deno.kill("SIGCONT");
  await scrapeUntil("it is back", api, (told) => !told.values("certautopilot_fleet_silent_processes").includes(1));

  const words = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--max-rate=60", "--batch-size=30", "--json"];
  const rotating = start(words, install.variables([1, 2], 2));
  const moved = (told: Scrape) => told.values("certautopilot_rotation_records", { outcome: "done" })[0] ?? 0;
  const during = await scrapeUntil("it moves at a rate that can be told", api, (told) => {
    const eta = told.values("certautopilot_rotation_eta_seconds");
    return moved(told) > 0 && eta.length > 0;
  });
  expect(one(during, "rotation_info", { from: "1", to: "2", state: "running" })).toBe(1);
  expect([one(during, "rotation_phase"), one(during, "rotation_led"), one(during, "acknowledged_phase")]).toEqual([
    2, 1, 2,
  ]);
  expect(one(during, "rotation_records", { outcome: "remaining" }) + moved(during)).toBe(600);
  expect(one(during, "rotation_records_per_second")).toBeGreaterThan(0);
  expect(one(during, "rotation_awaited_processes") + one(during, "rotation_acknowledged_processes")).toBe(2);
  expect(one(during, "write_version")).toBe(2);

  expect((await rotating.exited).code).toBe(0);
  const after = await scrapeUntil("the version counts is new", api, (told) =>
    told.values("certautopilot_version_records", { version: "2" }).includes(600),
  );
  expect(one(after, "last_rotation_info", { from: "1", to: "2", outcome: "completed" })).toBe(1);
  expect(one(after, "last_rotation_duration_seconds")).toBeGreaterThan(3);
  expect([one(after, "version_fenced", { version: "1" }), one(after, "rotation_open")]).toEqual([1, 0]);
  expect(after.values("certautopilot_fleet_drift")).toEqual([0, 0]);
  expect(after.values("certautopilot_rotation_records")).toEqual([]);
  if (PROMTOOL !== undefined) expect(promtool(["check", "metrics"], during.text)).toBe("");
  const refused = await fetch(`${addressOf(api)}/metrics`, { method: "POST" });
  expect(refused.status).toBe(405);
  await stop(api, deno);
});

test("MongoDB hangs: this process's own metrics come through", async () => {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-metrics-"));
  const mongod = await startPrivateMongod(directory);
  afterAll(async () => {
    process.kill(mongod.pid, "SIGCONT");
    await mongod.stop();
    rmSync(directory, { recursive: true, force: true });
  });
  const install = await testInstall();
  const over = { CERTAUTOPILOT_DATABASE_URI: mongod.uri };
  const api = await install.serve("api-1", [1], 1, over);
  expect((await scrape(api)).value("certautopilot_status_up")).toBe(1);
  process.kill(mongod.pid, "SIGSTOP");
  const away = await scrapeUntil("it has fenced itself", api, (told) => told.value("certautopilot_ready") === 0);
  expect(away.value("certautopilot_status_up")).toBe(0);
  expect(away.value("certautopilot_sync_age_seconds")).toBeGreaterThan(1.5);
  expect(away.value("certautopilot_process_resident_memory_bytes")).toBeGreaterThan(1e6);
  expect([...away.names].filter((name) => /_(version_info|rotation_|fleet_)/.test(name))).toEqual([]);
  const why = "/metrics is without the install's metrics: MongoDB has not answered within 5 s";
  await until("it says why", async () => api.stderr.includes(why));
  process.kill(mongod.pid, "SIGCONT");
  const back = (told: Scrape) => told.value("certautopilot_status_up") + told.value("certautopilot_ready") === 2;
  await scrapeUntil("it is back", api, back);
  await stop(api);
});

test("an HSM that is taken away and put back", async () => {
  const install = await hsmInstall();
  const { shim } = install.token;
  await made(install, 1);
  const api = await install.serve("api-1", 1);
  const before = await scrape(api);
  expect(before.value("certautopilot_hsm_up")).toBe(1);
  expect(before.value("certautopilot_hsm_sessions", { state: "open" })).toBe(shim.get("sessions"));
  expect(before.value("certautopilot_hsm_faults_total", { kind: "unavailable" })).toBe(0);
  expect(before.value("certautopilot_hsm_uses_total")).toBeGreaterThan(0);
  expect(before.values("certautopilot_operation_duration_seconds_count", { provider: "pkcs11" })).toEqual([0, 0, 0, 0]);
  shim.set({ away: 1 });
  const away = await scrapeUntil("the token is away", api, (told) => told.value("certautopilot_hsm_up") === 0);
  expect(away.value("certautopilot_hsm_faults_total", { kind: "unavailable" })).toBeGreaterThan(0);
  await scrapeUntil("it is not ready", api, (told) => told.value("certautopilot_ready") === 0);
  shim.set({ away: 0 });
  const back = await scrapeUntil("the token is back", api, (told) => told.value("certautopilot_ready") === 1);
  expect(back.value("certautopilot_hsm_up")).toBe(1);
  const opened = "certautopilot_hsm_sessions_opened_total";
  expect(back.value(opened)).toBeGreaterThan(before.value(opened));
  await stop(api);
});

test("what rules and dashboard ask for, and docs name, is what processes tell", () => {
  const all = [STATUS_UP, ...INSTALL_METRICS, ...PROCESS_METRICS, OPERATION_METRIC];
  expect([...exported].sort()).toEqual(all.map(({ name }) => name).sort());
  const alerts = readFileSync(ALERTS, "utf8");
  const dashboard = readFileSync(join(ROOT, "deploy/grafana/certautopilot.json"), "utf8");
  for (const used of [alerts, dashboard]) expect(metricsIn(used).filter((name) => !exported.has(name))).toEqual([]);
  const rows = readFileSync(join(ROOT, "docs/metrics.md"), "utf8")
    .split("\n")
    .filter((line) => line.startsWith("| `certautopilot_"));
  const label = (name: string) => `\`${name}\``;
  expect(rows).toEqual(
    all.map(({ name, type, labels, help }) => `| \`${name}\` | ${type} | ${labels.map(label).join(", ")} | ${help} |`),
  );
});

test("the dashboard is whole: every panel has its place, its source and an expression", () => {
  const dashboard = JSON.parse(readFileSync(join(ROOT, "deploy/grafana/certautopilot.json"), "utf8"));
  const panels = dashboard.panels as Panel[];
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  const taken = new Set<string>();
  for (const { gridPos: at, type, datasource, targets = [] } of panels) {
    expect(at.x + at.w).toBeLessThanOrEqual(24);
    for (let x = at.x; x < at.x + at.w; x += 1) {
      for (let y = at.y; y < at.y + at.h; y += 1) {
        expect(taken.has(`${x},${y}`)).toBe(false);
        taken.add(`${x},${y}`);
      }
    }
    if (type === "row") continue;
    expect(datasource).toEqual(dashboard.templating.list[1].datasource);
    expect(targets.length).toBeGreaterThan(0);
    for (const { expr } of targets) expect(expr).toContain('job="$job"');
  }
});

test.skipIf(PROMTOOL === undefined)("promtool takes the rules, their cases and the dashboard's expressions", () => {
  expect(promtool(["check", "rules", ALERTS])).toBe("");
  const cases = join(ROOT, "deploy/prometheus/alerts_test.yml");
  expect(promtool(["test", "rules", cases])).toBe("");
  const names = [...readFileSync(ALERTS, "utf8").matchAll(/alert: (\w+)/g)].map((match) => match[1]);
  const tried = readFileSync(cases, "utf8");
  expect(names.filter((name) => !tried.includes(`"${name}"`))).toEqual([]);
  const { panels } = JSON.parse(readFileSync(join(ROOT, "deploy/grafana/certautopilot.json"), "utf8"));
  const asked = (panels as Panel[]).flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  const rules = asked.map((expr, index) => ({ record: `dashboard:${index}`, expr: plain(expr) }));
  expect(promtool(["check", "rules", "/dev/stdin"], JSON.stringify({ groups: [{ name: "dashboard", rules }] }))).toBe(
    "",
  );
});

// ---------------------------------------------------------------------------------------------------------------------

interface Panel {
  id: number;
  type: string;
  gridPos: { x: number; y: number; w: number; h: number };
  datasource?: unknown;
  targets?: { expr: string }[];
}

/** With values for Grafana's variables. */
function plain(expr: string): string {
  return expr.replaceAll("$__rate_interval", "1m").replaceAll("$job", "certautopilot");
}
