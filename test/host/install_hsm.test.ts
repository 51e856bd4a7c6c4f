import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";

/** A host with systemd and its keys in SoftHSM, whose /tmp may not execute. */
describe.skipIf(HOST_ROOT === undefined)("keys in a token", () => {
  const PIN = "hsm-pin-31415926";
  const TOKENS = "/var/lib/softhsm/tokens";
  let host: InstallHost;
  let words: string[];
  beforeAll(async () => {
    host = await startInstallHost({ boot: true });
    const init = `softhsm2-util --init-token --free --label ca --pin ${PIN} --so-pin so-27182818`;
    const shared = `chown -R root:softhsm ${TOKENS} && chmod -R g+rwX ${TOKENS}`;
    await host.run(["sh", "-c", `${init} && ${shared} && mount -o remount,noexec /tmp`], { check: true });
    const token = [
      "--pkcs11-module=/usr/lib/softhsm/libsofthsm2.so",
      "--pkcs11-token-label=ca",
      `--pkcs11-state=${TOKENS}`,
    ];
    words = ["install", "--kek-provider=pkcs11", ...token, ...host.local];
  }, 300_000);
  afterAll(async () => await host?.stop());

  const ofInstall = () => [...host.traces()].filter(([path]) => !path.startsWith(TOKENS));

  test("a wrong PIN is told, and the host is as it was", async () => {
    const before = ofInstall();
    const { code, stderr } = await host.certautopilotWith("wrong-1234\n", [...words, "--pkcs11-pin-file=/dev/fd/3"]);
    expect([code, stderr]).toEqual([8, expect.stringContaining('token "ca": the PIN was refused')]);
    expect(stderr).toContain("the host is as it was before");
    expect(ofInstall()).toEqual(before);
  });

  test("once a token holds the key, what belongs to it stays when the service does not get ready; the next run finishes", async () => {
    const dropIn = host.path("/etc/systemd/system/certautopilot.service.d");
    mkdirSync(dropIn);
    writeFileSync(
      `${dropIn}/broken.conf`,
      "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo broken by a drop-in; exit 3'\n",
    );
    const broken = await host.certautopilot(words, { env: { CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: PIN } });
    expect([broken.code, broken.stderr]).toEqual([
      3,
      expect.stringContaining("certautopilot.service: broken by a drop-in"),
    ]);
    expect(broken.stderr).toContain(
      'left: keys /etc/certautopilot/secrets.env (0600 certautopilot): it belongs to the keys that database "certautopilot" knows now',
    );
    const left = ofInstall().map(([path]) => path);
    expect(left).toContain("/etc/certautopilot/pin");
    for (const gone of ["/usr/local/bin/certautopilot", "/etc/systemd/system/certautopilot.service"])
      expect(left).not.toContain(gone);
    rmSync(dropIn, { recursive: true });
    const { code, stderr } = await host.certautopilot(words);
    expect([code, stderr]).toEqual([0, expect.stringContaining("ready: ")]);
    expect(await host.ready()).toBe(true);
    const before = ofInstall();
    expect((await host.certautopilot(words)).stdout).toBe("nothing to change\n");
    expect(ofInstall()).toEqual(before);
  });

  test("the PIN is in its file, and nowhere else", async () => {
    expect(host.text("/etc/certautopilot/pin")).toBe(`${PIN}\n`);
    const { stdout } = await host.run([
      "sh",
      "-c",
      "stat -c '%a %U' /etc/certautopilot/pin; journalctl --no-pager; cat /etc/systemd/system/*.service /etc/certautopilot/[cs]*; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'",
    ]);
    expect(stdout).toStartWith("600 certautopilot\n");
    expect(stdout.length).toBeGreaterThan(10_000);
    expect(stdout).not.toContain(PIN);
  });

  test("a command finds that /tmp may not execute, and says what to do", async () => {
    const { code, stderr } = await host.run(["certautopilot", "kek", "verify"]);
    expect([code, stderr]).toEqual([
      8,
      expect.stringContaining("its directory is mounted noexec\nhint: set BUN_TMPDIR"),
    ]);
    expect((await host.run(["certautopilot", "kek", "verify"], { env: { BUN_TMPDIR: "/root" } })).code).toBe(0);
  });

  test("the unit lets the module at its tokens, and is exposed no more than 2.0", async () => {
    const { stdout } = await host.run(["systemd-analyze", "security", "--no-pager", "certautopilot.service"]);
    expect(Number(/exposure level for \S+: ([\d.]+)/.exec(stdout)?.[1])).toBeLessThanOrEqual(2);
    const verified = await host.run(["systemd-analyze", "verify", "certautopilot.service"]);
    expect([verified.code, verified.stderr]).toEqual([0, ""]);
  });
});
