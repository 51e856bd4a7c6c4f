import { afterAll, expect, test } from "bun:test";
import { start, stop, until } from "../harness/program.ts";
import { events, newestRotation, proveAll, seededInstall, serveAll } from "../harness/schedule.ts";
import { TcpProxy } from "../torture/tcp_proxy.ts";

/** A change that MongoDB made, and whose answer never came: for longer than the driver itself tries again. */

const AWAY_MS = 6500;

test("a coordinator whose completion went through, and that was never told, knows it for its own", async () => {
  const install = await seededInstall(20, { leaseMs: 25_000, evictionMs: 50_000 });
  // The transaction takes its time over a slow network.
  await install.db.client.db("admin").command({ setParameter: 1, transactionLifetimeLimitSeconds: 30 });
  const fleet = await serveAll(install, "a");
  const { hostname, port } = new URL(install.uri);
  expect(hostname).toBe("127.0.0.1");
  const proxy = await TcpProxy.open(() => Number(port));
  afterAll(() => proxy.close());
  const uri = `mongodb://127.0.0.1:${proxy.port}/?directConnection=true`;
  const variables = install.variables([1, 2], 2, { CERTAUTOPILOT_DATABASE_URI: uri });
  const rotate = start(["kek", "rotate", "--to-version=2", "--no-backup-check", "--json"], variables);
  await rotate.says(/phase 3: settle/);
  proxy.slow(200);
  await until("completed", async () => (await newestRotation(install))["state"] === "completed");
  proxy.cut();
  await new Promise((resolve) => setTimeout(resolve, AWAY_MS));
  proxy.heal();
  const ran = await rotate.exited;
  expect(ran.stderr).not.toContain("error:");
  expect(ran.code).toBe(0);
  expect(await events(install, "rotation.completed")).toHaveLength(1);
  await proveAll(install, [2], 20);
  await stop(...fleet);
});
