import { afterAll } from "bun:test";
import { type Config, type Kek, openKek } from "../../src/index.ts";
import { FAST, type TestInstall } from "./program.ts";

/** The library in this test's own process, as one more member of the fleet. */

export function libraryConfig(install: TestInstall, versions: number[], current: number, name = "library"): Config {
  const { beatMs, leaseMs, evictionMs, drainMs } = FAST;
  return {
    database: { uri: install.uri, name: install.name },
    encryption: {
      provider: "env",
      currentVersion: current,
      env: {
        keks: Object.fromEntries(
          versions.map((version) => [version, { setting: `KEK_V${version}`, hex: install.keks[version] as string }]),
        ),
      },
    },
    secretsFile: undefined,
    instanceName: name,
    server: { host: "127.0.0.1", port: 0 },
    audit: { secret: "audit-secret-of-the-tests", file: undefined },
    fleet: { beatMs, leaseMs, evictionMs, drainMs },
    fields: [],
  };
}

export async function library(install: TestInstall, versions: number[], current: number, name?: string): Promise<Kek> {
  const kek = await openKek(libraryConfig(install, versions, current, name));
  afterAll(() => kek.close());
  return kek;
}

/** Writes `count` secrets; record i holds the text `secret i`. */
export async function seed(
  kek: Kek,
  install: TestInstall,
  count: number,
  collection = "secrets",
  field = "value",
): Promise<void> {
  const BATCH = 500;
  for (let start = 0; start < count; start += BATCH) {
    const ids = Array.from({ length: Math.min(BATCH, count - start) }, (_, index) => start + index);
    const documents = await Promise.all(
      ids.map(async (id) => ({
        _id: id as never,
        [field]: await kek.encrypt(`secret ${id}`, { collection, id, field }),
      })),
    );
    await install.db.collection(collection).insertMany(documents);
  }
}

/** How many of the seeded records open with the right plaintext. */
export async function countRight(
  kek: Kek,
  install: TestInstall,
  collection = "secrets",
  field = "value",
): Promise<number> {
  let right = 0;
  for await (const record of install.db.collection<{ _id: number; [key: string]: unknown }>(collection).find({})) {
    const plaintext = await kek.decrypt(record[field], { collection, id: record._id, field });
    if (plaintext.toString("utf8") === `secret ${record._id}`) right += 1;
  }
  return right;
}

/** Versions of the seeded envelopes, as { "1": 10, "2": 90 }. */
export async function versionsOf(
  install: TestInstall,
  collection = "secrets",
  field = "value",
): Promise<Record<string, number>> {
  const rows = await install.db
    .collection(collection)
    .aggregate<{ _id: number; n: number }>([{ $group: { _id: `$${field}.kek_version`, n: { $sum: 1 } } }])
    .toArray();
  return Object.fromEntries(rows.map((row) => [String(row._id), row.n]));
}
