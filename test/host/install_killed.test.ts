import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";
import { CRASH_BINARY } from "../harness/program.ts";

/** `install` that is killed after a step is finished by the next run. Both are the build with crash points. */

const armed = (at: string) => ({ env: { CERTAUTOPILOT_TEST_CRASH_AT: at } });

describe.skipIf(HOST_ROOT === undefined)("on a host without systemd", () => {
  let host: InstallHost;
  beforeAll(async () => {
    host = await startInstallHost({ boot: false }, CRASH_BINARY);
  });
  afterAll(async () => await host.stop());

  test("killed after each step, and run again, it comes to its end; then nothing is left to change", async () => {
    const plain = ["install", "--no-service", ...host.local];
    const kill = async (at: string) => await host.certautopilot(plain, armed(at));
    let kills = 0;
    for (; kills < 30; kills += 1) {
      // Once in the middle of the longest step too: an administrator, and no user yet.
      if (kills === 9) expect((await kill("admin.made")).code).toBeNull();
      // What is not known to be done without a mongod is looked at again: a step more from there on.
      const { code, stderr } = await kill(kills < 9 ? "install.step" : "install.step:2");
      if (code === 0) break;
      expect([code, stderr]).toEqual([null, expect.any(String)]);
    }
    expect(kills).toBeGreaterThan(9);
    const before = [...host.traces()];
    const again = await host.certautopilot(["install", "--no-service", "--mongo=local"]);
    expect([again.code, again.stdout]).toEqual([0, "nothing to change\n"]);
    expect([...host.traces()]).toEqual(before);
  });
});

describe.skipIf(HOST_ROOT === undefined)("on a host with systemd", () => {
  let host: InstallHost;
  beforeAll(async () => {
    host = await startInstallHost({ boot: true }, CRASH_BINARY);
  }, 300_000);
  afterAll(async () => await host.stop());

  test("killed between the file and the restart: the next run knows that the service has not seen the file", async () => {
    expect((await host.certautopilot(["install", ...host.local])).code).toBe(0);
    expect((await host.certautopilot(["install", "--instance-name=api-2"], armed("install.step"))).code).toBeNull();
    expect(JSON.parse((await host.certautopilot(["install", "--json"])).stdout).changes).toEqual([
      "certautopilot.service restarted",
      expect.stringContaining("ready: "),
      expect.stringContaining("removed: /etc/certautopilot/.config.yaml.old"),
    ]);
    expect((await host.run(["certautopilot", "kek", "verify"])).stdout).toContain("api-2");
  });
});
