import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";
import { unusedPort } from "../harness/mongod_here.ts";

/** What a host has against an install is found before the first change, on a Debian host with systemd. */
describe.skipIf(HOST_ROOT === undefined)("what is found on a host before anything is changed", () => {
  let host: InstallHost;
  beforeAll(async () => {
    host = await startInstallHost({ boot: true });
  }, 120_000);
  afterAll(async () => await host?.stop());

  const shell = async (script: string) => await host.run(["sh", "-c", script], { check: true });
  const refused = async (words: string[], said: string, exit = 3) => {
    const before = [...host.traces()];
    const { code, stderr } = await host.certautopilot(["install", ...words]);
    expect([code, stderr]).toEqual([exit, expect.stringContaining(said)]);
    expect([...host.traces()]).toEqual(before);
    return stderr;
  };
  const program = (path: string, script: string) => {
    writeFileSync(host.path(path), `#!/bin/sh\n${script}\n`);
    chmodSync(host.path(path), 0o755);
  };

  test("a file system that is mounted read-only", async () => {
    await shell("mount --bind /usr /usr && mount -o remount,ro,bind /usr");
    await refused(host.local, "/usr is mounted read-only, and install writes /usr/local/bin/certautopilot");
    await shell("umount -l /usr");
  });

  test("a mongod that the units hide from themselves, or that the service's user cannot read", async () => {
    await shell("cp /usr/bin/mongod /root/mongod && cp /usr/bin/mongod /tmp/mongod");
    await shell("mkdir -m 0700 /opt/closed && cp /usr/bin/mongod /opt/closed/mongod");
    await refused([...host.local, "--mongod=/root/mongod"], "mongod /root/mongod is in a home directory");
    await refused([...host.local, "--mongod=/tmp/mongod"], "mongod /tmp/mongod is in a temporary directory");
    await refused([...host.local, "--mongod=/opt/closed/mongod"], "/opt/closed is closed to it");
    await shell("rm -r /root/mongod /tmp/mongod /opt/closed");
  });

  test("addresses on which nobody can listen; all that is in the way is said at once", async () => {
    const [mongo, port] = [host.local[0] as string, host.local[1] as string];
    await shell(`mkdir /tmp/other && (mongod --port ${host.mongoPort} --dbpath /tmp/other >/dev/null 2>&1 &)`);
    await shell(`until grep -q :$(printf %04X ${host.mongoPort}) /proc/net/tcp; do sleep 0.05; done`);
    const stderr = await refused(
      [mongo, port, "--listen=127.0.0.1:80"],
      "this host cannot be installed yet: 2 problems",
    );
    expect(stderr).toContain(`MongoDB cannot listen on 127.0.0.1:${host.mongoPort}: it is in use`);
    expect(stderr).toContain("the service cannot listen on 127.0.0.1:80: below port 1024 only root may");
    // It answers 200 to any request: a program that answers is not yet ours.
    const taken = `127.0.0.1:${host.mongoPort}`;
    await refused([mongo, `--listen=${taken}`, "--mongo-port=1025"], `the service cannot listen on ${taken}: it is in`);
    await shell("pkill mongod; while pgrep mongod; do sleep 0.05; done; rm -r /tmp/other");
  });

  test("a setpriv that cannot change the user", async () => {
    renameSync(host.path("/usr/bin/setpriv"), host.path("/usr/bin/setpriv.real"));
    program("/usr/bin/setpriv", "echo 'BusyBox v1.35.0 multi-call binary. Usage: setpriv [OPTIONS] PROG' >&2; exit 1");
    await refused(host.local, "setpriv of util-linux is not installed");
    renameSync(host.path("/usr/bin/setpriv.real"), host.path("/usr/bin/setpriv"));
  });

  test("packages: their version counts, in any language; a busy package manager is waited for", async () => {
    renameSync(host.path("/usr/bin/mongod"), host.path("/opt/mongod"));
    const policy = (candidate: string) =>
      program(
        "/usr/local/sbin/apt-cache",
        `if [ "$LC_ALL" = C ]; then echo "  Candidate: ${candidate}"; else echo "  Installationskandidat: ${candidate}"; fi`,
      );
    policy("(none)");
    expect(await refused(host.local, "no configured package repository has one", 9)).toContain("hint: add MongoDB's");
    await shell("mv /var/lib/apt/lists /var/lib/apt/lists.away");
    expect(await refused(host.local, "no configured package repository has one", 9)).toContain(
      "hint: this host has no lists of packages: run apt-get update first",
    );
    await shell("mv /var/lib/apt/lists.away /var/lib/apt/lists");
    policy("1:3.6.3-0ubuntu1.1");
    await refused(host.local, "has one of version 6 or newer", 9);
    policy("7.0.14");
    program("/usr/local/sbin/apt-get", 'echo "$*" >/dev/shm/apt-said; exit 100');
    // What dpkg holds while it works.
    const held =
      'perl -MFcntl -e \'open F, ">", "/var/lib/dpkg/lock-frontend"; $lock = pack("s s x4 l! l! i x4", F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $lock) or die; open G, ">", "/dev/shm/held"; close G; sleep 600\'';
    await shell(
      `(${held} >/dev/null 2>&1 &); tries=0; until [ -e /dev/shm/held ]; do sleep 0.05; tries=$((tries + 1)); [ $tries -lt 200 ]; done`,
    );
    const stderr = await refused(host.local, "apt-get install");
    expect(stderr).toMatch(/warning: perl \(pid \d+\) works with packages: install waits for it/);
    expect(stderr).toContain("the host is as it was before");
    expect(stderr).not.toContain("left: ");
    expect(host.text("/dev/shm/apt-said")).toContain("-o DPkg::Lock::Timeout=300");
    await shell("pkill perl; rm /dev/shm/held /dev/shm/apt-said /usr/local/sbin/apt-*");
    renameSync(host.path("/opt/mongod"), host.path("/usr/bin/mongod"));
  });

  test("a kernel without user namespaces, an earlier user without our group, and a strict umask: it is installed for them", async () => {
    await shell("echo 0 >/run/no-namespaces && mount --bind /run/no-namespaces /proc/sys/user/max_user_namespaces");
    await shell("useradd --create-home --no-user-group --gid users --uid 1500 certautopilot && rmdir /usr/local/bin");
    const strict = 'umask 077; exec /opt/release/certautopilot "$@"';
    const { code, stderr } = await host.run(["sh", "-c", strict, "sh", "install", ...host.local], {
      timeoutMs: 150_000,
    });
    expect([code, stderr]).toEqual([0, expect.stringContaining("ready: ")]);
    expect(stderr).toContain("user namespaces are off on this host");
    expect(stderr).toContain("the user certautopilot is here already (uid 1500, group users)");
    for (const unit of ["certautopilot", "certautopilot-mongod"]) {
      const text = host.text(`/etc/systemd/system/${unit}.service`);
      expect(text).toContain("User=certautopilot\nGroup=users\n");
      expect(text).not.toContain("PrivateUsers");
    }
    expect((await host.run(["stat", "-c", "%a", "/usr/local/bin"])).stdout).toBe("755\n");
    await shell("umount -l /proc/sys/user/max_user_namespaces");
  });

  test("keys that are gone are never replaced, and no password is changed", async () => {
    const secrets = "/etc/certautopilot/secrets.env";
    await shell(`systemctl stop certautopilot certautopilot-mongod && mv ${secrets} /root/secrets.env`);
    const said = await refused(host.local, `${secrets} is gone: new keys would not open its secrets`);
    expect(said).toContain("hint: put your copy of the file back");
    await shell("mv /etc/certautopilot /etc/elsewhere");
    await refused(host.local, "this host has /var/lib/certautopilot/mongodb of an earlier install");
    await shell(`mv /etc/elsewhere /etc/certautopilot && mv /root/secrets.env ${secrets}`);
    const { code, stderr } = await host.certautopilot(["install"]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("ready: ")]);
    expect(await host.ready()).toBe(true);
  });

  test("an older release in place of a newer one needs its flag; the plan names both", async () => {
    const binary = "/usr/local/bin/certautopilot";
    await shell(`chmod 0755 /opt/release && rm ${binary}`);
    program(binary, 'if [ "$1" = --version ]; then echo 1.99.1; else exec /opt/release/certautopilot "$@"; fi');
    await refused(host.local, "is older than 1.99.1, which is installed");
    const words = ["install", "--allow-downgrade", `--listen=[::1]:${await unusedPort()}`];
    const { code, stdout, stderr } = await host.certautopilot(words);
    expect([code, stderr]).toEqual([0, expect.stringContaining("ready: http://[::1]:")]);
    expect(stdout).toContain("see it: http://[::1]:");
    expect(stderr).toMatch(/ program 1\.99\.1 → \d+\.\d+\.\d+ \/usr\/local\/bin\/certautopilot/);
  });

  test("a service that does not start: its own words of this start are shown, and the configuration is as it was", async () => {
    const config = host.text("/etc/certautopilot/config.yaml");
    const dropIn = "/etc/systemd/system/certautopilot.service.d";
    const pre = "[Service]\nExecStartPre=/bin/sh -c 'echo this start is broken by a drop-in; exit 1'\n";
    await shell(`mkdir ${dropIn}`);
    writeFileSync(host.path(`${dropIn}/broken.conf`), pre);
    await shell("systemctl daemon-reload");
    const { code, stderr } = await host.certautopilot(["install", "--instance-name=other"]);
    expect([code, stderr]).toEqual([3, expect.stringContaining("this start is broken by a drop-in")]);
    expect(host.text("/etc/certautopilot/config.yaml")).toBe(config);
    rmSync(host.path(`${dropIn}/broken.conf`));
    await shell("systemctl daemon-reload");
    const again = await host.certautopilot(["install", `--listen=${host.listen}`]);
    expect([again.code, await host.ready()]).toEqual([0, true]);
  });

  test("a purge removes what install made, keeps the rest, and says so; a mount is emptied", async () => {
    await shell("systemctl stop certautopilot certautopilot-mongod");
    await shell("mv /var/lib/certautopilot /var/lib/moved && mkdir /var/lib/certautopilot");
    await shell("mount -t tmpfs none /var/lib/certautopilot && cp -a /var/lib/moved/. /var/lib/certautopilot");
    await shell("rm -r /var/lib/moved");
    const { code, stdout } = await host.certautopilot(["uninstall", "--purge", "--yes-i-mean-it"]);
    expect(code).toBe(0);
    for (const stays of [
      "user certautopilot (uid 1500): install did not make it",
      "/var/lib/certautopilot: a file system is mounted there",
      "/etc/systemd/system/certautopilot.service.d: changes of your own",
    ])
      expect(stdout).toContain(`stays: ${stays}`);
    expect((await host.run(["ls", "-A", "/var/lib/certautopilot"])).stdout).toBe("");
    expect((await host.run(["id", "-u", "certautopilot"])).stdout).toBe("1500\n");
    expect(existsSync(host.path("/etc/certautopilot"))).toBe(false);
  });
});
