import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";

/** In the middle of the longest step. */
const STOPPED = `/opt/release/certautopilot "$@" & until [ -e /var/lib/certautopilot/mongodb/mongod.lock ]; do sleep 0.05; done; kill "$0" $!; wait $!`;

/** `install --no-service` on a real Debian host: failures leave it as it was. */
describe.skipIf(HOST_ROOT === undefined)("install on a host without systemd", () => {
  let host: InstallHost;
  let plain: string[];
  beforeAll(async () => {
    host = await startInstallHost({ boot: false });
    plain = ["install", "--no-service", ...host.local];
  });
  afterAll(async () => await host.stop());

  test("a dry run prints every step and writes not one file", async () => {
    const { code, stdout } = await host.certautopilot([...plain, "--dry-run"]);
    expect(code).toBe(0);
    expect(stdout).toContain("keys /etc/certautopilot/secrets.env (0600 certautopilot)");
    expect(stdout).toEndWith("nothing was changed\n");
    expect([...host.traces()]).toEqual([]);
  });

  test("what cannot be is refused before anything is written", async () => {
    const refusals: [string[], number, string][] = [
      [["install", ...host.local], 2, "systemd does not run on this host"],
      [["install", "--no-service"], 2, "--mongo is missing"],
      [["install", "--no-service", "--mongo=external"], 2, "needs the URI"],
      [["install", "--no-service", "--mongo=elsewhere"], 2, "--mongo is neither local nor external"],
      [[...plain, "--kek-provider=pkcs11"], 2, "needs --pkcs11-module=PATH"],
      [[...plain, "--pkcs11-token-label=x"], 2, "are for --kek-provider=pkcs11"],
      [[...plain, "--config=/etc/x.yaml"], 2, "--config is not for this command"],
      [[...plain, "--listen"], 2, "--listen"],
      [["install", "--no-service", "--mongo=local", "--listen=0.0.0.0:1"], 2, "the API would be open to the network"],
      [
        ["install", "--no-service", "--mongo=external", "--mongo-uri=mongodb://127.0.0.1:9/?replicaSet=x"],
        9,
        "cannot be reached",
      ],
      [[...plain, "--secrets-from=/etc/hostname"], 2, "others can read it"],
    ];
    for (const [words, code, said] of refusals) {
      const ran = await host.certautopilot(words);
      expect([words.at(-1), ran.code, ran.stderr]).toEqual([words.at(-1), code, expect.stringContaining(said)]);
    }
    expect([...host.traces()]).toEqual([]);
  });

  test("a service user that is root by another name is refused", async () => {
    const users = host.text("/etc/passwd");
    writeFileSync(host.path("/etc/passwd"), `${users}certautopilot:x:0:0::/:/bin/sh\n`);
    const { code, stderr } = await host.certautopilot(plain);
    writeFileSync(host.path("/etc/passwd"), users);
    expect([code, stderr]).toEqual([3, expect.stringContaining("root by another name")]);
    expect([...host.traces()]).toEqual([]);
  });

  test("while another one works on the host, it is refused", async () => {
    const holding = ["sh", "-c", 'flock /run/certautopilot-install.lock "$@"', "sh", "/opt/release/certautopilot"];
    const ran = await host.run([...holding, ...plain]);
    expect([ran.code, ran.stderr]).toEqual([3, expect.stringContaining("another install, update or uninstall runs")]);
    expect([...host.traces()]).toEqual([]);
  });

  test("a step that fails undoes those before it", async () => {
    for (const path of ["/var/lib/certautopilot/mongodb", "/usr/local/bin/certautopilot"]) {
      const made = path.startsWith("/var/lib/certautopilot") ? "/var/lib/certautopilot" : undefined;
      if (made !== undefined) mkdirSync(host.path(made), { mode: 0o750 });
      if (made !== undefined) writeFileSync(host.path(path), "in the way");
      else mkdirSync(host.path(path));
      const before = [...host.traces()];
      const { code, stderr } = await host.certautopilot(plain);
      expect([path, code, stderr]).toEqual([path, 3, expect.stringContaining("the host is as it was before")]);
      expect([...host.traces()]).toEqual(before);
      await host.run(["rm", "-r", made ?? path], { check: true });
    }
    // mongod itself: what it said last is in the error.
    writeFileSync(
      host.path("/opt/mongod"),
      '#!/bin/sh\n[ "$1" = --version ] && echo "db version v6.0.0" && exit\necho no room for me >&2\nexit 14\n',
    );
    chmodSync(host.path("/opt/mongod"), 0o755);
    const dying = await host.certautopilot([...plain, "--mongod=/opt/mongod"]);
    expect([dying.code, dying.stderr]).toEqual([9, expect.stringContaining("it said last: no room for me")]);
    await host.run(["rm", "/opt/mongod"], { check: true });
    for (const signal of ["-TERM", "-HUP"]) {
      const stopped = await host.run(["sh", "-c", STOPPED, signal, ...plain]);
      expect([signal, stopped.code, stopped.stderr]).toEqual([
        signal,
        5,
        expect.stringContaining("the host is as it was before"),
      ]);
      expect([...host.traces()]).toEqual([]);
    }
  });

  test("it installs; then nothing is left to change", async () => {
    expect((await host.certautopilot(plain)).code).toBe(0);
    const before = [...host.traces()];
    const again = await host.certautopilot(["install", "--no-service", "--mongo=local"]);
    expect([again.code, again.stdout]).toEqual([0, "nothing to change\n"]);
    expect([...host.traces()]).toEqual(before);
  });

  test("each file has the owner and mode that the plan says, and no other is there", async () => {
    const files = await host.run([
      "find",
      "/etc/certautopilot",
      "/var/lib/certautopilot",
      "/usr/local/bin/certautopilot",
      "-maxdepth",
      "1",
      "-printf",
      "%p %m %u:%g\n",
    ]);
    expect(files.stdout.trim().split("\n").sort()).toEqual([
      "/etc/certautopilot 750 root:certautopilot",
      "/etc/certautopilot/api.token 600 certautopilot:certautopilot",
      "/etc/certautopilot/config.yaml 640 root:certautopilot",
      "/etc/certautopilot/mongod-admin.env 600 root:root",
      "/etc/certautopilot/mongod.conf 640 root:certautopilot",
      "/etc/certautopilot/mongod.key 400 certautopilot:certautopilot",
      "/etc/certautopilot/secrets.env 600 certautopilot:certautopilot",
      "/usr/local/bin/certautopilot 755 root:root",
      "/var/lib/certautopilot 750 certautopilot:certautopilot",
      "/var/lib/certautopilot/mongodb 700 certautopilot:certautopilot",
    ]);
  });

  test("other flags change what they touch, never a secret; what contradicts the install is refused", async () => {
    const secrets = host.text("/etc/certautopilot/secrets.env");
    writeFileSync(
      host.path("/etc/certautopilot/config.yaml"),
      `${host.text("/etc/certautopilot/config.yaml")}audit:\n  # kept for the SIEM\n  file: /var/lib/certautopilot/audit.jsonl\n`,
    );
    const named = await host.certautopilot(["install", "--no-service", "--instance-name=api-1", "--json"]);
    expect(JSON.parse(named.stdout).changes).toEqual([
      "configuration /etc/certautopilot/config.yaml (0640 root:certautopilot)",
    ]);
    const config = host.text("/etc/certautopilot/config.yaml");
    expect(config).toContain("instance_name: api-1\n");
    expect(config).toContain("# kept for the SIEM\n");
    expect(host.text("/etc/certautopilot/secrets.env")).toBe(secrets);
    await host.run(["ln", "-s", "/run/secrets/pin", "/etc/certautopilot/pin"], { check: true });
    const linked = await host.certautopilot(["install", "--no-service"]);
    expect([linked.code, linked.stderr]).toEqual([3, expect.stringContaining("neither follows nor replaces it")]);
    await host.run(["rm", "/etc/certautopilot/pin"], { check: true });
    const before = [...host.traces()];
    const refusals: [string[], number, string][] = [
      [["--kek-provider=pkcs11"], 4, 'KEK provider mismatch: installed="env"'],
      [["--mongo=external", "--mongo-uri=mongodb://127.0.0.1:9/"], 3, "installed with --mongo=local"],
      [["--mongo-database=other"], 3, 'is database "certautopilot"'],
      [["--mongo-port=1"], 3, "its replica set is known by it"],
    ];
    for (const [words, code, said] of refusals) {
      const ran = await host.certautopilot(["install", "--no-service", ...words]);
      expect([words, ran.code, ran.stderr]).toEqual([words, code, expect.stringContaining(said)]);
    }
    expect([...host.traces()]).toEqual(before);
  });

  test("the last lines start it, and the service gets ready", async () => {
    const { stdout } = await host.certautopilot(["install", "--no-service", "--instance-name=api-2"]);
    const [mongod = "", serve = ""] = stdout
      .split("\n")
      .filter((line) => line.includes("setpriv"))
      .map((line) => line.trim());
    await host.run(["sh", "-c", mongod], { check: true });
    await host.run(["sh", "-c", `${serve} >/dev/null 2>&1 &`], { check: true });
    for (let tries = 0; tries < 100 && !(await host.ready()); tries += 1) await Bun.sleep(100);
    expect(await host.ready()).toBe(true);
    const purge = await host.certautopilot(["uninstall", "--purge", "--yes-i-mean-it"]);
    expect([purge.code, purge.stderr]).toEqual([
      3,
      expect.stringMatching(/run outside of its units: .*mongod \(pid \d+\)/),
    ]);
  });
});
