import { randomBytes } from "node:crypto";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Config } from "../config/config.ts";
import { KekError } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import { joinFleet } from "../fleet/join.ts";
import { closeStore, openStore } from "../store/store.ts";
import { runSelf, type Served, startServe, stopServe } from "./fleet.ts";
import { startPrivateMongod } from "./private_mongod.ts";
import { KINDS } from "./secret_kinds.ts";
import { Ledger, read, seed, type Traffic, write } from "./traffic.ts";
import { ciphertexts, openEverything } from "./verification.ts";

/** The main job, for real and in private: a mongod, a fleet of three, live traffic, a rotation, and the proof. */

export interface DemoReport {
  records: number;
  opened_with_v2_alone: number;
  ciphertexts_compared: number;
  ciphertexts_changed: number;
  reads_during_rotation: number;
  writes_during_rotation: number;
  failed_reads_and_writes: number;
  rotation: unknown;
  audit: unknown;
}

const TIMES = { beatMs: 500, leaseMs: 3000, evictionMs: 6000, drainMs: 2000 };
const DATABASE = "certautopilot_demo";

/** @param stop resolves when the demo is to end early (Ctrl-C): it cleans up after itself then too. */
export async function demo(records: number, log: Log, stop: Promise<string>): Promise<DemoReport> {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-demo-"));
  const cleanups: (() => Promise<void> | void)[] = [() => rmSync(directory, { recursive: true, force: true })];
  const stopped = stop.then((signal) => {
    throw new KekError("cancelled", `the demo was stopped (${signal})`, "everything it made has been removed");
  });
  try {
    return await Promise.race([play(directory, records, log, cleanups), stopped]);
  } finally {
    for (const cleanup of cleanups.reverse()) await cleanup();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function play(
  directory: string,
  total: number,
  log: Log,
  cleanups: (() => Promise<void> | void)[],
): Promise<DemoReport> {
  log.info("starting a private mongod (a replica set of one member)");
  const mongod = await startPrivateMongod(directory);
  cleanups.push(() => mongod.stop());

  const secretsFile = join(directory, "secrets.env");
  writeFileSync(secretsFile, `${secretLine("ENCRYPTION_ENV_KEK_V1")}CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=1\n`, {
    mode: 0o600,
  });
  const variables = {
    CERTAUTOPILOT_DATABASE_URI: mongod.uri,
    CERTAUTOPILOT_DATABASE_NAME: DATABASE,
    CERTAUTOPILOT_SECRETS_FILE: secretsFile,
    CERTAUTOPILOT_AUDIT_SECRET: randomBytes(32).toString("hex"),
    CERTAUTOPILOT_FLEET_BEAT_MS: String(TIMES.beatMs),
    CERTAUTOPILOT_FLEET_LEASE_MS: String(TIMES.leaseMs),
    CERTAUTOPILOT_FLEET_EVICTION_MS: String(TIMES.evictionMs),
    CERTAUTOPILOT_FLEET_DRAIN_MS: String(TIMES.drainMs),
  };
  log.info("starting a fleet: api-1, api-2, worker-1");
  const fleet: Served[] = [];
  cleanups.push(async () => {
    await Promise.all(fleet.map(stopServe));
  });
  for (const [name, role] of [
    ["api-1", "api"],
    ["api-2", "api"],
    ["worker-1", "worker"],
  ] as const) {
    fleet.push(await startServe(name, role, variables));
  }

  const store = await openStore({ uri: mongod.uri, name: DATABASE }, { appName: "certautopilot demo" });
  cleanups.push(() => closeStore(store));
  const config = libraryConfig(mongod.uri, secretsFile, variables.CERTAUTOPILOT_AUDIT_SECRET);
  const writer = await joinFleet({ ...config, instanceName: "billing-service" });
  cleanups.push(() => writer.close());
  const reader = await joinFleet({ ...config, instanceName: "deploy-service" });
  cleanups.push(() => reader.close());

  const ledger = new Ledger();
  log.info(
    `writing ${total} secrets into ${KINDS.length} fields of ${new Set(KINDS.map((kind) => kind.collection)).size} collections under KEK version 1`,
  );
  await seed(writer, store, ledger, total);
  const before = await ciphertexts(store);

  const traffic: Traffic = { reads: 0, writes: 0, failures: [] };
  let over = false;
  const services = [
    write({ encryption: writer, store, ledger, total, traffic, stopped: () => over }),
    ...[0, 1].map(() => read({ encryption: reader, store, ledger, total, traffic, stopped: () => over })),
  ];
  cleanups.push(async () => {
    over = true;
    await Promise.all(services);
  });

  log.info("adding KEK version 2 to the secrets file: every process loads it without a restart, and declares it");
  announceV2(secretsFile);
  await untilReady(variables, log);
  // The demo's keys and its database are deleted together: a backup of them would protect nothing.
  const rotate = ["kek", "rotate", "--to-version=2", "--no-backup-check", "--yes", "--json"];
  const rotated = await runSelf(rotate, variables, (end) => cleanups.push(end));
  if (rotated.code !== 0)
    throw new KekError("unexpected", `kek rotate ended with exit code ${rotated.code}`, "see above");
  over = true;
  await Promise.all(services);

  log.info("verifying: every record opened with version 2 alone, every ciphertext compared, the audit chain walked");
  const report = await verify({ directory, config, store, ledger, before });
  const audit = await runSelf(["audit", "verify", "--json"], variables);
  for (const failure of traffic.failures.slice(0, 10)) log.warn(failure);
  return {
    records: ledger.records,
    ...report,
    reads_during_rotation: traffic.reads,
    writes_during_rotation: traffic.writes,
    failed_reads_and_writes: traffic.failures.length,
    rotation: JSON.parse(rotated.stdout),
    audit: JSON.parse(audit.stdout),
  };
}

async function verify({
  directory,
  config,
  store,
  ledger,
  before,
}: {
  directory: string;
  config: Config;
  store: Parameters<typeof ciphertexts>[0];
  ledger: Ledger;
  before: Map<string, string>;
}) {
  const onlyV2 = join(directory, "only-v2.env");
  const line = readFileSync(join(directory, "secrets.env"), "utf8")
    .split("\n")
    .find((entry) => entry.startsWith("CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2="));
  writeFileSync(onlyV2, `${line}\n`, { mode: 0o600 });
  const auditor = await joinFleet({ ...config, secretsFile: onlyV2, instanceName: "proof" });
  try {
    const { opened, wrong } = await openEverything(auditor, store, ledger);
    const after = await ciphertexts(store);
    // A record that a service rewrote meanwhile has a new revision, and rightly a new ciphertext.
    const same = [...before].filter(([record]) => after.has(record));
    return {
      opened_with_v2_alone: opened,
      wrong_records: wrong.slice(0, 10),
      ciphertexts_compared: same.length,
      ciphertexts_changed: same.filter(([record, digest]) => after.get(record) !== digest).length,
    };
  } finally {
    await auditor.close();
  }
}

function libraryConfig(uri: string, secretsFile: string, secret: string): Config {
  return {
    database: { uri, name: DATABASE },
    encryption: { provider: "env", currentVersion: 1, env: { keks: {} } },
    secretsFile,
    instanceName: "library",
    rotationPeriodMs: 365 * 86_400_000,
    server: { host: "127.0.0.1", port: 0, tls: undefined, hosts: [] },
    api: undefined,
    audit: { secret, file: undefined },
    fleet: TIMES,
    fields: KINDS,
  };
}

function secretLine(name: string): string {
  return `CERTAUTOPILOT_${name}=${randomBytes(32).toString("hex")}\n`;
}

function announceV2(secretsFile: string): void {
  appendFileSync(secretsFile, secretLine("ENCRYPTION_ENV_KEK_V2"));
  const text = readFileSync(secretsFile, "utf8").replace("CURRENT_VERSION=1", "CURRENT_VERSION=2");
  writeFileSync(secretsFile, text, { mode: 0o600 });
}

async function untilReady(variables: Record<string, string>, log: Log): Promise<void> {
  for (let attempt = 0; attempt < 50; attempt += 1) {
    const verified = await runSelf(["kek", "verify", "--target=2", "--no-backup-check", "--json"], variables);
    if (verified.code === 0) {
      log.info("kek verify --target=2: ready");
      return;
    }
    await sleep(200);
  }
  throw new KekError("not_acknowledged", "the fleet did not become ready for version 2", "report this");
}
