import { expect, test } from "bun:test";
import { proveHsm, seededHsm } from "../harness/hsm_install.ts";
import { start } from "../harness/program.ts";
import { newestRotation, versionStates } from "../harness/schedule.ts";
import { problem, random, WELL } from "../harness/token_trouble.ts";

/**
 * Rotations while the token misbehaves at random, over a fleet that reads and writes. Whatever a rotation ends with meanwhile, the
 * same command completes once the token is well; every record opens, and no PIN is sent twice. CERTAUTOPILOT_TEST_SEED repeats a run.
 */

const RECORDS = 150;
const ROTATIONS = process.env["CERTAUTOPILOT_TEST_LONG"] ? 12 : 2;
const VERSIONS = Array.from({ length: ROTATIONS }, (_, rotation) => rotation + 2);
const TROUBLES = 4;
const TROUBLE_MS = 1500;
/** From when the token is well. */
const COMPLETES_MS = 60_000;
const SEED = Number(process.env["CERTAUTOPILOT_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

test(`${ROTATIONS} rotations under trouble, seed ${SEED}`, async () => {
  const next = random(SEED);
  const install = await seededHsm(RECORDS, VERSIONS, { leaseMs: 10_000, evictionMs: 30_000 });
  const { shim } = install.token;
  for (const to of VERSIONS) {
    const service = await install.service(to);
    await service.ask({ traffic: "start" });
    const words = ["kek", "rotate", `--to-version=${to}`, "--no-backup-check", "--yes", "--json"];
    const orders: unknown[] = [];
    const rotate = () => start(words, install.variables(to));
    const first = rotate();
    for (let round = 0; round < TROUBLES; round += 1) {
      const order = problem(shim, next);
      orders.push(order);
      shim.set({ ...WELL, ...order });
      await Bun.sleep(TROUBLE_MS);
    }
    shim.set(WELL);
    const until = performance.now() + COMPLETES_MS;
    let last = await first.exited;
    while (last.code !== 0 && performance.now() < until && (await versionStates(install))[to] !== "active")
      last = await rotate().exited;
    expect({
      orders,
      code: last.code,
      stderr: last.stderr.slice(-500),
      state: (await newestRotation(install))["state"],
    }).toMatchObject({
      state: "completed",
    });
    expect(await service.ask({ traffic: "stop" })).toMatchObject({ wrong: 0 });
    await service.leave();
  }
  expect(shim.get("wrongPins")).toBe(0);
  await proveHsm(install, VERSIONS.at(-1) as number, RECORDS);
}, 900_000);
