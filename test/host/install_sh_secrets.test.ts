import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";
import { type ProcessWatch, watchProcesses } from "../harness/process_watch.ts";
import { layOnHost, releaseWith, TARGET_HERE } from "../harness/release.ts";
import { INSTALL_SH } from "../harness/release_files.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/**
 * The line of the spec, with the PIN inline, on a Debian with systemd and a SoftHSM token: where the PIN, the keys and the
 * passwords were seen while it ran, and where they are afterwards.
 */
describe.skipIf(HOST_ROOT === undefined)("install.sh with a PIN", () => {
  const scratch = scratchDirectory();
  // Whatever a shell might take for its own.
  const PIN = `pin '%s" \\$(${randomBytes(6).toString("hex")})`;
  const PIN_FILE = "/etc/certautopilot/pin";
  const PRIVATE = ["api.token", "mongod-admin.env", "mongod.key", "secrets.env"].map(
    (name) => `/etc/certautopilot/${name}`,
  );
  let host: InstallHost;
  let watch: ProcessWatch;

  beforeAll(async () => {
    const release = await releaseWith(scratch, [TARGET_HERE]);
    host = await startInstallHost({ boot: true }, join(release, `certautopilot-${TARGET_HERE}`));
    layOnHost(host, release);
    cpSync(INSTALL_SH, host.path("/opt/install.sh"));
    const token = [
      "read -r pin",
      'softhsm2-util --init-token --free --label hsm --pin "$pin" --so-pin 27182818',
      "chmod -R g+rwX /var/lib/softhsm",
    ];
    await host.run(["sh", "-ec", token.join("\n")], { stdin: `${PIN}\n`, check: true });
    watch = watchProcesses(host);
  }, 300_000);
  afterAll(async () => {
    await watch.stop();
    await host.stop();
  });

  test("it installs, and the service is ready", async () => {
    const words = [
      ...["--base-url=/opt/releases", ...host.local, "--kek-provider=pkcs11", "--pkcs11-token-label=hsm"],
      ...["--pkcs11-module=/usr/lib/softhsm/libsofthsm2.so", "--pkcs11-state=/var/lib/softhsm/tokens"],
      `--pkcs11-pin='${PIN.replaceAll("'", "'\\''")}'`,
    ];
    // In a file, so that the only shell with the PIN in its arguments is the one that the operator started.
    writeFileSync(host.path("/dev/shm/line"), `cat /opt/install.sh | bash -s -- ${words.join(" ")}\n`, { mode: 0o600 });
    const ran = await host.run(["sh", "/dev/shm/line"], { timeoutMs: 150_000 });
    expect([ran.code, ran.stderr]).toEqual([0, expect.stringContaining("warning: --pkcs11-pin can be seen")]);
    expect(`${ran.stdout}${ran.stderr}`).not.toContain(PIN);
    expect(await host.ready()).toBe(true);
    await host.run(["rm", "/dev/shm/line"], { check: true });
  }, 180_000);

  test("no process had the PIN or a key in its arguments or environment, but the shell that was given it", async () => {
    await host.run(["systemctl", "restart", "certautopilot"], { check: true });
    await host.run(["certautopilot", "kek", "status"], { check: true });
    await watch.stop();
    const all = [...watch.arguments];
    for (const seen of ["install --mongo=local", "mongod --config", "certautopilot serve", "kek status"])
      expect([seen, all.some((words) => words.includes(seen))]).toEqual([seen, true]);
    expect(all.some((words) => words.includes("--pkcs11-pin-file=/dev/fd/3"))).toBe(true);
    expect(all.filter((words) => words.includes(PIN) && !words.startsWith("bash -s -- "))).toEqual([]);
    const secrets = secretsOf(host);
    expect(secrets.length).toBeGreaterThan(4);
    for (const secret of secrets) expect(all.filter((words) => words.includes(secret))).toEqual([]);
    for (const secret of [PIN, ...secrets])
      expect([...watch.environments].filter((variables) => variables.includes(secret))).toEqual([]);
  });

  test("each is in the one file of mode 0600 that it belongs in, and in no other: no log, unit, journal or configuration", async () => {
    const secrets = [PIN, ...secretsOf(host)];
    // One search for all of them; -a, since a journal is no text.
    const search = ["grep", "-rlaF", "--exclude-dir=proc", "--exclude-dir=sys", "-f", "-", "/"];
    const { stdout } = await host.run(search, { stdin: `${secrets.join("\n")}\n` });
    expect(stdout.trim().split("\n").sort()).toEqual([...PRIVATE, PIN_FILE].sort());
    for (const path of PRIVATE) expect(host.text(path)).not.toContain(PIN);
    expect(host.text(PIN_FILE)).toStartWith(PIN);
    const modes = await host.run(["stat", "-c", "%a %n", PIN_FILE, ...PRIVATE], { check: true });
    for (const line of modes.stdout.trim().split("\n")) expect(line).toMatch(/^[46]00 /);
    // The journal once more, as it is read: a long entry is packed.
    const journal = await host.run(["journalctl", "--no-pager", "--all", "-o", "export"], { check: true });
    expect(journal.stdout).toContain("UNIT=certautopilot.service");
    expect(secrets.filter((secret) => journal.stdout.includes(secret))).toEqual([]);
  });

  /** Every value that install made up, or was given: audit secret, API token, MongoDB's passwords and key file. */
  function secretsOf(of: InstallHost): string[] {
    const text = PRIVATE.map((path) => of.text(path)).join("\n");
    return [...new Set([...text.matchAll(/[A-Za-z0-9+/_-]{24,}/g)].map(([value]) => value))].filter(
      (value) => !/^[A-Z_0-9]+$/.test(value),
    );
  }
});
