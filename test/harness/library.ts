import { afterAll } from "bun:test";
import { type Config, type FieldEncryption, openFieldEncryption } from "../../src/index.ts";
import { FAST, type TestInstall } from "./program.ts";

export { countRight, seed, versionsOf } from "./records.ts";

/** The library in this test's own process, as one more member of the fleet. */

export function libraryConfig(
  install: TestInstall,
  versions: number[],
  current: number,
  name = "library",
  times = FAST,
): Config {
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
    rotationPeriodMs: 365 * 86_400_000,
    server: { host: "127.0.0.1", port: 0, tls: undefined, hosts: [] },
    api: undefined,
    audit: { secret: "audit-secret-of-the-tests", file: undefined },
    fleet: times,
    fields: [],
  };
}

export async function library(
  install: TestInstall,
  versions: number[],
  current: number,
  name?: string,
  times = FAST,
): Promise<FieldEncryption> {
  const kek = await openFieldEncryption(libraryConfig(install, versions, current, name, times));
  afterAll(() => kek.close());
  return kek;
}
