import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";

/** The life of one host with systemd: install, update and its reverse rotation, uninstall. The program is built as a release file is. */
describe.skipIf(HOST_ROOT === undefined)("a host with systemd", () => {
  const work = mkdtempSync(join(tmpdir(), "certautopilot-release-"));
  let host: InstallHost;
  beforeAll(async () => {
    const root = join(import.meta.dir, "../..");
    const entries = ["src/main.ts", "src/rotation/rewrap_worker.ts", "src/providers/pkcs11/session_worker.ts"];
    const defines = ["--define", 'CERTAUTOPILOT_TARGET="linux-x64"', "--define", "import.meta.crashPoints=false"];
    const target = [...defines, "--outfile", join(work, "certautopilot")];
    const flags = [
      "--compile",
      "--minify",
      "--format=esm",
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
    ];
    const built = Bun.spawnSync([process.execPath, "build", ...flags, ...entries, ...target], { cwd: root });
    if (!built.success) throw new Error(built.stderr.toString());
    host = await startInstallHost({ boot: true }, join(work, "certautopilot"));
  }, 300_000);
  afterAll(async () => {
    await host?.stop();
    rmSync(work, { recursive: true, force: true });
  });

  const secretsOf = (text: string) => [...text.matchAll(/[0-9a-f]{64}/g)].map(([secret]) => secret);

  test("is installed, ready, and starts with the host; the second run changes nothing", async () => {
    const { code, stdout, stderr } = await host.certautopilot(["install", ...host.local]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("ready: http")]);
    expect(stdout).toContain("back up /etc/certautopilot/secrets.env now");
    expect(await host.ready()).toBe(true);
    const before = [...host.traces()];
    const again = await host.certautopilot(["install", ...host.local]);
    expect([again.code, again.stdout]).toEqual([0, "nothing to change\n"]);
    expect([...host.traces()]).toEqual(before);
    const enabled = await host.run(["systemctl", "is-enabled", "certautopilot", "certautopilot-mongod"]);
    expect(enabled.stdout).toBe("enabled\nenabled\n");
  });

  test("the units are sound, and exposed no more than 2.0 each", async () => {
    const units = ["certautopilot.service", "certautopilot-mongod.service"];
    const verified = await host.run(["systemd-analyze", "verify", ...units]);
    expect([verified.code, verified.stderr]).toEqual([0, ""]);
    for (const unit of units) {
      const { stdout } = await host.run(["systemd-analyze", "security", "--no-pager", unit]);
      expect(Number(/exposure level for \S+: ([\d.]+)/.exec(stdout)?.[1])).toBeLessThanOrEqual(2);
      const { stdout: limits } = await host.run([
        "sh",
        "-c",
        `cat /proc/$(systemctl show --value --property=MainPID ${unit})/limits`,
      ]);
      expect(limits).toMatch(/Max core file size +0 +0/);
    }
  });

  test("no secret is in a journal, a unit, the configuration, or any process's arguments or environment", async () => {
    const secrets = ["secrets.env", "api.token", "mongod-admin.env"].flatMap((name) =>
      secretsOf(host.text(`/etc/certautopilot/${name}`)),
    );
    expect(secrets.length).toBe(5);
    const { stdout } = await host.run([
      "sh",
      "-c",
      "journalctl --no-pager; cat /etc/systemd/system/*.service /etc/certautopilot/config.yaml /etc/certautopilot/mongod.conf; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'",
    ]);
    expect(stdout.length).toBeGreaterThan(10_000);
    for (const secret of secrets) expect(stdout).not.toContain(secret);
  });

  test("a changed flag restarts the service, with its keys as they were", async () => {
    const secrets = host.text("/etc/certautopilot/secrets.env");
    const { code, stdout } = await host.certautopilot(["install", "--instance-name=api-1", "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout).changes).toEqual([
      "configuration /etc/certautopilot/config.yaml (0640 root:certautopilot)",
      "certautopilot.service restarted",
      expect.stringContaining("ready: "),
    ]);
    expect(host.text("/etc/certautopilot/secrets.env")).toBe(secrets);
    expect((await host.run(["certautopilot", "kek", "verify"])).stdout).toContain("api-1");
  });

  /** A release whose program is a script. */
  const release = (version: string, script: string, digest?: string) => {
    const directory = host.path(`/opt/mirror/v${version}`);
    const name = "certautopilot-linux-x64";
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, name), script);
    writeFileSync(
      join(directory, "SHA256SUMS"),
      `${digest ?? createHash("sha256").update(script).digest("hex")}  ${name}\n`,
    );
  };
  const says = (version: string, then: string) =>
    `#!/bin/sh\n[ "$1" = --version ] && echo ${version} && exit\n${then}\n`;
  const update = async (version: string, ...more: string[]) =>
    await host.certautopilot(["update", `--version=${version}`, "--base-url=/opt/mirror", ...more]);

  test("update swaps the program, and swaps it back when the service does not get ready", async () => {
    const program = host.text("/usr/local/bin/certautopilot").length;
    release("1.4.1", says("1.4.1", 'exec /opt/release/certautopilot "$@"'));
    chmodSync(host.path("/opt/release"), 0o755);
    release("1.4.2", says("1.4.2", "echo cannot serve; sleep 1; exit 3"));
    release("1.4.3", says("1.4.3", "exit"), "0".repeat(64));
    release("1.4.4", says("9.9.9", "exit"));
    release("1.3.9", says("1.3.9", "exit"));
    const refusals: [string, string][] = [
      ["1.4.2", "1.4.2 was not taken: certautopilot.service does not become ready"],
      ["1.4.3", "is not what its SHA256SUMS says"],
      ["1.4.4", "the program fetched is not 1.4.4"],
      ["1.3.9", "1.3.9 is older than 1.4.0"],
      ["1.4.9", "cannot be fetched: no such file"],
    ];
    const before = [...host.traces()];
    for (const [version, said] of refusals) {
      const { code, stderr } = await update(version);
      expect([version, code, stderr]).toEqual([version, 3, expect.stringContaining(said)]);
      expect([...host.traces()]).toEqual(before);
      expect(await host.ready()).toBe(true);
    }
    expect((await update("1.4.1", "--dry-run")).stdout).toContain(
      "would put 1.4.1 in place of 1.4.0, and restart the service",
    );
    expect([...host.traces()]).toEqual(before);
    const taken = await update("1.4.1");
    expect([taken.code, taken.stdout]).toEqual([0, expect.stringContaining("1.4.1 is in place of 1.4.0")]);
    expect(await host.ready()).toBe(true);
    expect(host.text("/usr/local/bin/certautopilot").length).toBeLessThan(program);
    expect((await update("1.4.1")).stdout).toBe("nothing to change\n");
    // As a run that was killed between the swap and the restart leaves it.
    await host.run(["ln", "/usr/local/bin/certautopilot", "/usr/local/bin/.certautopilot.old"], { check: true });
    expect((await update("1.4.1")).stdout).toContain("the service runs it and is ready");
    expect((await host.run(["ls", "-A", "/usr/local/bin"])).stdout).toBe("certautopilot\n");
  });

  test("uninstall leaves keys and data, which install takes up again; a purge leaves nothing", async () => {
    const keys = host.text("/etc/certautopilot/secrets.env");
    expect((await host.certautopilot(["uninstall", "--purge"])).code).toBe(2);
    expect(await host.ready()).toBe(true);
    const { code, stdout } = await host.certautopilot(["uninstall"]);
    expect([code, stdout]).toEqual([0, expect.stringContaining("kept: /etc/certautopilot")]);
    const left = [...host.traces()].filter(([, what]) => what !== "gone").map(([path]) => path);
    expect(
      left.filter((path) => !/^\/(opt\/|etc\/(certautopilot\/|passwd$|group$|shadow$|gshadow$))/.test(path)).sort(),
    ).toEqual(["/etc/certautopilot", "/var/lib/certautopilot", "/var/lib/certautopilot/mongodb"]);
    expect(await host.ready()).toBe(false);
    const again = await host.certautopilot(["install"]);
    expect([again.code, again.stderr]).toEqual([0, expect.stringContaining("ready: ")]);
    expect(host.text("/etc/certautopilot/secrets.env")).toBe(keys);
    const would = await host.certautopilot(["uninstall", "--purge", "--dry-run", "--json"]);
    expect(JSON.parse(would.stdout).steps.at(-1)).toBe("removed: /usr/local/bin/certautopilot");
    const purged = await host.certautopilot(["uninstall", "--purge", "--yes-i-mean-it"]);
    expect([purged.code, purged.stderr]).toEqual([
      0,
      expect.stringContaining("this is destroyed, and cannot be restored:"),
    ]);
    expect([...host.traces().keys()].filter((path) => !path.startsWith("/opt/"))).toEqual([]);
    expect((await host.certautopilot(["uninstall"])).stdout).toBe("nothing to remove\n");
  });
});
