import { expect, test } from "bun:test";
import { hsmInstall, keksIn, payloads, proveHsm } from "../harness/hsm_install.ts";
import { run, stop, until } from "../harness/program.ts";
import { versionsOf } from "../harness/records.ts";
import { events } from "../harness/schedule.ts";
import { CKR } from "../harness/token.ts";

/** The same sources without a build, with keys in a token: every step by one runtime, beside a compiled `serve`. */

for (const runtime of ["bun", "deno"] as const) {
  test(`keys are made, a fleet rotates and a key is destroyed under ${runtime}`, async () => {
    // A process from sources takes its time to load a worker on a busy machine.
    const install = await hsmInstall({ leaseMs: 10_000, evictionMs: 20_000 });
    const { token } = install;
    const kek = (words: string[], current?: number) => install.kek(words, current, {}, runtime);
    const first = await kek(["pkcs11-init", "--version=1"]);
    expect({ code: first.code, stderr: first.stderr }).toEqual({ code: 0, stderr: "" });
    expect(first.json).toMatchObject({ version: 1, state: "staged", already: false, locked_now: true });
    expect((await kek(["pkcs11-init", "--version=1"])).json).toMatchObject({ already: true });

    const fleet = await Promise.all([install.serve("from-sources", 2, { runtime }), install.serve("binary", 2)]).catch(
      (thrown) => thrown,
    );
    // Version 2 is declared and not there: nothing is active, and the first process says what to do.
    expect(String(fleet)).toContain("ended with");
    const serving = await Promise.all([install.serve("from-sources", 1, { runtime }), install.serve("binary", 1)]);
    const service = await install.service(1);
    await service.ask({ seed: 200 });
    await service.leave();
    await stop(...serving);
    expect((await kek(["pkcs11-init", "--version=2"])).code).toBe(0);
    const before = await payloads(install);
    const both = await Promise.all([install.serve("from-sources", 2, { runtime }), install.serve("binary", 2)]);

    const verified = await kek(["verify", "--target=2"], 2);
    expect({ code: verified.code, stderr: verified.stderr }).toEqual({ code: 0, stderr: "" });
    token.shim.set({ failPpm: 5000, drops: 1 });
    const rotated = await kek(["rotate", "--to-version=2"], 2);
    token.shim.set({ failPpm: 0 });
    expect({ code: rotated.code, error: rotated.stderr.match(/error:.*/)?.[0] }).toEqual({ code: 0, error: undefined });
    expect(rotated.json).toMatchObject({ rewrapped: 200, state: "completed" });
    expect(await versionsOf(install)).toEqual({ "2": 200 });
    expect(await payloads(install)).toEqual(before);
    expect(await events(install, "record.failed")).toEqual([]);

    token.shim.set({ away: CKR.DEVICE_REMOVED });
    await until("it is seen to be unavailable", async () => (await kek(["verify"], 2)).code === 8);
    token.shim.set({ away: 0 });
    expect((await kek(["remove", "--version=1"], 2)).code).toBe(0);
    expect(keksIn(token)).toEqual(["certautopilot-kek-v2"]);
    expect((await kek(["verify", "--records"], 2)).json).toMatchObject({ records: 200, opened: 200, failed: 0 });
    await stop(...both);
    expect((await both[0].exited).code).toBe(0);
    await proveHsm(install, 2, 200);
    const wrong = await run(
      ["kek", "verify"],
      install.variables(2, { CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: "wrong-pin-99999" }),
      runtime,
    );
    expect(wrong.code).toBe(8);
    expect(token.shim.get("overlaps")).toBe(0);
  });
}
