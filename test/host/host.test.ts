import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { HOST_ROOT, type Host, startHost } from "../harness/host.ts";

/** That what the other tests of hosts stand on is what it says. */
describe.skipIf(HOST_ROOT === undefined)("a host of the tests", () => {
  const hosts: Host[] = [];
  beforeAll(async () => {
    hosts.push(...(await Promise.all([startHost({ boot: true }), startHost({ boot: false })])));
  });
  afterAll(async () => {
    await Promise.all(hosts.map((host) => host.stop()));
  });

  test("has Debian, systemd as its init where asked for, and a mongod", async () => {
    const [booted, bare] = hosts as [Host, Host];
    expect((await booted.run(["cat", "/etc/os-release"], { check: true })).stdout).toContain("bookworm");
    expect((await booted.run(["cat", "/proc/1/comm"])).stdout).toBe("systemd\n");
    expect((await bare.run(["cat", "/proc/1/comm"])).stdout).not.toBe("systemd\n");
    expect((await bare.run(["mongod", "--version"], { check: true })).stdout).toContain("db version");
  });

  test("says which files were written, and nothing else", async () => {
    const [booted, bare] = hosts as [Host, Host];
    for (const host of [booted, bare]) {
      expect([...host.written()]).toEqual([]);
      await host.run(["sh", "-c", "umask 077; cat >/etc/new; rm /etc/issue"], { stdin: "text", check: true });
      const written = host.written();
      expect(written.get("/etc/new")).toStartWith("file 600 0:0 4 bytes");
      expect([...written.keys()].sort()).toEqual(["/etc/issue", "/etc/new"]);
      expect(existsSync(host.path("/etc/new"))).toBe(true);
    }
  });

  test("tells an exit code, and throws it where it matters", async () => {
    const bare = hosts[1] as Host;
    expect((await bare.run(["sh", "-c", "echo no >&2; exit 3"])).code).toBe(3);
    await expect(bare.run(["false"], { check: true })).rejects.toThrow("false ended with 1");
  });
});
