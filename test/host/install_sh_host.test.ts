import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Document, EJSON } from "bson";
import { MongoClient } from "mongodb";
import { apiClient, base64 } from "../harness/api.ts";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";
import { kekHex, until } from "../harness/program.ts";
import { layOnHost, releaseWith, TARGET_HERE } from "../harness/release.ts";
import { INSTALL_SH, RELEASED } from "../harness/release_files.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** The piped installer with a real release, as root, on a clean Debian without systemd: from nothing to a rotation, and back. */
describe.skipIf(HOST_ROOT === undefined)("install.sh on a host", () => {
  const scratch = scratchDirectory();
  const FILE = `/opt/releases/v${RELEASED}/certautopilot-${TARGET_HERE}`;
  const SECRETS = "/etc/certautopilot/secrets.env";
  let host: InstallHost;
  let flags: string[];
  let empty: [string, string][];

  beforeAll(async () => {
    const release = await releaseWith(scratch, [TARGET_HERE]);
    host = await startInstallHost({ boot: false }, join(release, `certautopilot-${TARGET_HERE}`));
    layOnHost(host, release);
    flags = ["--no-service", ...host.local];
    empty = [...host.traces()];
  }, 300_000);
  afterAll(async () => await host.stop());

  /** `cat install.sh | bash -s -- …` from the host's directory of release files. */
  const piped = async (words: string[], env: Record<string, string> = {}) =>
    await host.run(["bash", "-s", "--", ...words], { stdin: readFileSync(INSTALL_SH), env, timeoutMs: 150_000 });
  const base = "--base-url=/opt/releases";

  test("a dry run prints the plan and writes not one file; nor does a script that was cut off", async () => {
    const dry = await piped([base, ...flags, "--dry-run"]);
    expect([dry.code, dry.stdout]).toEqual([0, expect.stringMatching(/^would do:\n( {2}.*\n)+nothing was changed\n$/)]);
    writeFileSync(host.path("/dev/shm/install.sh"), readFileSync(INSTALL_SH));
    const size = readFileSync(INSTALL_SH).length;
    const words = [base, ...flags].join(" ");
    const loop = `cut=0; while [ $cut -lt ${size} ]; do head -c $cut /dev/shm/install.sh | bash -s -- ${words}; cut=$((cut + 500)); done`;
    const { stdout } = await host.run(["sh", "-c", loop]);
    expect(stdout).toBe("");
    expect([...host.traces()]).toEqual(empty);
  });

  /** The same with file systems mounted over directories, for this one run; the program refuses the database's name. */
  const pipedWith = async (mounts: string[], env: Record<string, string>) => {
    const script = [...mounts, `exec bash -s -- ${[base, ...flags].join(" ")} --mongo-database='no name'`].join("\n");
    await host.run(["mkdir", "-p", "/dev/shm/other"], { check: true });
    const words = ["unshare", "--mount", "sh", "-ec", script];
    const ran = await host.run(words, { stdin: readFileSync(INSTALL_SH), env });
    expect((await host.run(["sh", "-c", "ls -d /tmp/* /var/tmp/* /dev/shm/other/* 2>/dev/null"])).stdout).toBe("");
    expect([...host.traces()]).toEqual(empty);
    return ran;
  };
  const noexec = (directory: string) => `mount -t tmpfs -o noexec none ${directory}`;
  const small = (directory: string) => `mount -t tmpfs -o size=1m none ${directory}`;

  test.each([
    ["may not execute", noexec, /other cannot be used: programs may not run in it/],
    ["is full", small, /other cannot be used: the release file cannot be written: .*other.*No space left on device/],
  ])("where the temporary directory %s, the next is used, and the reason is said", async (_name, mount, reason) => {
    const { code, stderr } = await pipedWith([mount("/dev/shm/other")], { TMPDIR: "/dev/shm/other" });
    expect(stderr).toMatch(reason);
    expect([code, stderr]).toEqual([2, expect.stringContaining("error: CERTAUTOPILOT_DATABASE_NAME")]);
  });

  test("where no directory can be used, each is named with its reason", async () => {
    const mounts = [small("/tmp"), ...["/var/tmp", "/run", "/dev/shm", "/usr/local/lib"].map(noexec)];
    const { code, stderr } = await pipedWith(mounts, { TMPDIR: "/nowhere" });
    expect(code).toBe(1);
    const error = /^error: no directory can hold and run the release file; (.*)$/m.exec(stderr)?.[1] ?? "";
    expect(error).toMatch(/\/nowhere: .*No such file.*; \/tmp: .*No space left/);
    for (const directory of ["/var/tmp", "/run", "/dev/shm", "/usr/local/lib"])
      expect(error).toContain(`${directory}: programs may not run in it`);
    expect(stderr).toMatch(/^hint: make 200 MB of room .* TMPDIR=/m);
  });

  test("one line installs it, and the second time it changes nothing", async () => {
    const ran = await piped([base, ...flags]);
    expect([ran.code, ran.stderr]).toEqual([0, expect.stringContaining("KEK version 1 made known")]);
    expect((await host.run(["sha256sum", "/usr/local/bin/certautopilot", FILE])).stdout).toMatch(/^(\w+) .*\n\1 .*\n$/);
    const before = [...host.traces()];
    const again = await piped([base, ...flags]);
    expect([again.code, again.stdout]).toEqual([0, "nothing to change\n"]);
    expect([...host.traces()]).toEqual(before);
    expect((await host.run(["sh", "-c", "ls -d /tmp/* /opt/*"])).stdout).toBe("/opt/release\n/opt/releases\n");
  });

  test("with a wrong checksum the old program stays", async () => {
    const spoil = `mkdir -p /opt/spoilt && cp -r /opt/releases/v${RELEASED} /opt/spoilt/ && echo >>${FILE.replace("releases", "spoilt")}`;
    await host.run(["sh", "-c", spoil], { check: true });
    const before = [...host.traces()];
    const { code, stderr } = await piped(["--base-url=/opt/spoilt", ...flags]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("is not what SHA256SUMS says")]);
    expect([...host.traces()]).toEqual(before);
    await host.run(["rm", "-r", "/opt/spoilt"], { check: true });
  });

  test("started as the last lines say, it rotates, and every secret opens", async () => {
    const { stdout } = await piped([base, "--no-service", "--instance-name=first"]);
    const commands = stdout.split("\n").filter((line) => line.includes("setpriv"));
    expect(commands).toHaveLength(2);
    await host.run(["sh", "-c", commands[0] ?? ""], { check: true });
    await host.run(["sh", "-c", `${commands[1]} >/dev/null 2>&1 &`], { check: true });
    await until("the service", async () => await host.ready());

    const secrets = host.text(SECRETS);
    const client = await new MongoClient(/^CERTAUTOPILOT_DATABASE_URI=(.*)$/m.exec(secrets)?.[1] ?? "").connect();
    try {
      const records = client.db("certautopilot").collection<{ _id: string; key: Document }>("certificates");
      const api = apiClient(`http://${host.listen}`, host.text("/etc/certautopilot/api.token").trim());
      const place = (id: string) => ({ collection: "certificates", id, field: "key" });
      for (let record = 0; record < 40; record += 1) {
        const sealed = await api.post("encrypt", { ...place(`r${record}`), plaintext: base64(`secret ${record}`) });
        const key = EJSON.deserialize(sealed.body.envelope, { relaxed: false }) as Document;
        await records.insertOne({ _id: `r${record}`, key });
      }

      // As docs say: the new key's line and the version that is wanted, into the file; it is read again at once.
      const more = secrets.replace(/(CURRENT_VERSION)=1/, `$1=2\nCERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2=${kekHex()}`);
      writeFileSync(host.path(SECRETS), more);
      const kek = async (...words: string[]) => await host.run(["certautopilot", "kek", ...words]);
      await until("kek verify", async () => (await kek("verify", "--target=2", "--no-backup-check")).code === 0);
      const rotated = await kek("rotate", "--to-version=2", "--no-backup-check", "--yes", "--json");
      expect([rotated.code, rotated.stderr]).toEqual([0, expect.any(String)]);
      expect((await kek("verify", "--records")).code).toBe(0);

      for await (const { _id, key } of records.find()) {
        expect(key["kek_version"]).toBe(2);
        const envelope = EJSON.serialize(key, { relaxed: false });
        const opened = await api.post("decrypt", { ...place(_id), envelope });
        expect(opened.body.plaintext).toBe(base64(`secret ${_id.slice(1)}`));
      }
    } finally {
      await client.close();
    }
  }, 120_000);

  test("uninstalled, keys and data stay, and nothing else", async () => {
    await host.run(["sh", "-c", "pkill certautopilot; pkill mongod; while pgrep -x mongod; do sleep 0.1; done"]);
    const secrets = host.text(SECRETS);
    const plan = await host.run(["certautopilot", "uninstall", "--dry-run"]);
    expect([plan.code, plan.stdout]).toEqual([0, expect.stringContaining("/usr/local/bin/certautopilot")]);
    const { code, stderr } = await host.run(["certautopilot", "uninstall"]);
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    const known = new Set(empty.map(([path]) => path));
    const left = [...host.traces()].filter(([path]) => !known.has(path) && !path.startsWith("/var/lib/certautopilot/"));
    const kept = "api.token config.yaml mongod-admin.env mongod.conf mongod.key secrets.env";
    const users = "group gshadow passwd shadow";
    expect(left.map(([path]) => path).sort()).toEqual([
      "/etc/certautopilot",
      ...kept.split(" ").map((name) => `/etc/certautopilot/${name}`),
      ...users.split(" ").map((name) => `/etc/${name}`),
      "/var/lib/certautopilot",
    ]);
    expect(host.text(SECRETS)).toBe(secrets);
  });
});
