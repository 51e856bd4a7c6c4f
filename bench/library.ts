import { type FieldEncryption, openFieldEncryption } from "../src/index.ts";
import { FIELD, KEKS, type Stage } from "./stage.ts";

/** The library in this process, over a database that `seed` has made. */
export async function withLibrary<T>(
  stage: Stage,
  database: string,
  work: (kek: FieldEncryption) => Promise<T>,
): Promise<T> {
  const kek = await openFieldEncryption({
    database: { uri: stage.mongod.uri, name: database },
    encryption: {
      provider: "env",
      currentVersion: 1,
      env: { keks: { 1: { setting: "KEK_V1", hex: KEKS[1].toString("hex") } } },
    },
    secretsFile: undefined,
    instanceName: "bench",
    rotationPeriodMs: 365 * 86_400_000,
    server: { host: "127.0.0.1", port: 0, tls: undefined, hosts: [] },
    api: undefined,
    audit: { secret: "audit-secret-of-this-run", file: undefined },
    fleet: { beatMs: 5000, leaseMs: 30_000, evictionMs: 60_000, drainMs: 5000 },
    fields: [FIELD],
  });
  try {
    return await work(kek);
  } finally {
    await kek.close();
  }
}
