import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { EJSON } from "bson";
import { apiClient } from "../harness/api.ts";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";
import { freshDatabase } from "../harness/mongo.ts";
import { kekHex } from "../harness/program.ts";

// Not in a hook: what it starts would end with the hook.
const database = await freshDatabase();
const locked = await freshDatabase();

interface User {
  _id: number;
  // biome-ignore lint/suspicious/noExplicitAny: an envelope as it is stored
  totp_seed: any;
}

/** Hosts that share an external MongoDB, and a root that is not the host's. */
describe.skipIf(HOST_ROOT === undefined)("an external MongoDB", () => {
  let hosts: [InstallHost, InstallHost];
  beforeAll(async () => {
    hosts = await Promise.all([
      startInstallHost({ boot: false, mongod: false }),
      startInstallHost({ boot: false, mongod: false }),
    ]);
  }, 300_000);
  afterAll(async () => {
    await Promise.all(hosts.map((host) => host.stop()));
  });

  const external = (host: InstallHost, name = database.name) => [
    "install",
    "--no-service",
    "--mongo=external",
    `--mongo-database=${name}`,
    `--listen=${host.listen}`,
  ];

  test("one that is locked for another provider, or whose keys are elsewhere, is refused; the host stays as it was", async () => {
    const [host] = hosts;
    const words = [...external(host, locked.name), "--mongo-uri-file=/dev/fd/3"];
    const lock = {
      _id: "kek_install",
      provider: "pkcs11",
      install_id: "3f0f7a3e-8f1e-4f0e-9b1e-0a1b2c3d4e5f",
      locked_at: new Date("2026-05-01T09:00:00Z"),
      locked_by: "pkcs11-init",
    };
    await locked.db.collection<{ _id: string }>("kek_install").insertOne(lock);
    const other = await host.certautopilotWith(locked.uri, [...words, "--kek-provider=env"]);
    expect([other.code, other.stderr]).toEqual([
      4,
      expect.stringContaining(
        'error: KEK provider mismatch: installed="pkcs11" (since 2026-05-01T09:00:00Z) but config says "env". Provider is immutable after install.\n',
      ),
    ]);
    await locked.db
      .collection<{ _id: string }>("kek_install")
      .updateOne({ _id: "kek_install" }, { $set: { provider: "env" } });
    const keyless = await host.certautopilotWith(locked.uri, words);
    expect([keyless.code, keyless.stderr]).toEqual([3, expect.stringContaining("name it with --secrets-from=FILE")]);
    expect([...host.traces()]).toEqual([]);
  });

  test("two hosts make one fleet with the first one's secrets; other bytes are refused before anything is written", async () => {
    const [one, two] = hosts;
    const first = await one.certautopilotWith(database.uri, [
      ...external(one),
      "--mongo-uri-file=/dev/fd/3",
      "--instance-name=one",
    ]);
    expect([first.code, first.stderr, first.stdout]).toEqual([
      0,
      expect.any(String),
      expect.stringContaining("add a host"),
    ]);
    expect(await database.db.collection("kek_install").findOne()).toMatchObject({
      provider: "env",
      locked_by: "install",
    });
    const secrets = one.text("/etc/certautopilot/secrets.env");
    const join = async (text: string) => {
      writeFileSync(two.path("/root/first.env"), text, { mode: 0o600 });
      return await two.certautopilot([...external(two), "--secrets-from=/root/first.env", "--instance-name=two"]);
    };
    // Until a process has made version 1 active its canary is staged; it counts all the same.
    const wrong = await join(secrets.replace(/(KEK_V1=).*/, `$1${kekHex()}`));
    expect([wrong.code, wrong.stderr]).toEqual([3, expect.stringContaining("KEK version 1")]);
    expect([...two.traces().keys()]).toEqual(["/root/first.env"]);
    const second = await join(secrets);
    expect([second.code, second.stderr]).toEqual([0, expect.any(String)]);
    expect(two.text("/etc/certautopilot/api.token")).not.toBe(one.text("/etc/certautopilot/api.token"));
    for (const host of hosts) {
      const start =
        "setpriv --reuid=certautopilot --regid=certautopilot --init-groups certautopilot serve >/dev/null 2>&1 &";
      await host.run(["sh", "-c", start], { check: true });
    }
    for (let tries = 0; tries < 150 && !((await one.ready()) && (await two.ready())); tries += 1) await Bun.sleep(100);
    const verified = await two.run(["certautopilot", "kek", "verify", "--json"]);
    const { processes } = JSON.parse(verified.stdout) as { processes: { instance_name: string }[] };
    expect([verified.code, processes.map((each) => each.instance_name).sort()]).toEqual([0, ["one", "two"]]);
  });

  test("they rotate together: what one host sealed the other opens, and both write under the new version", async () => {
    const [one, two] = hosts;
    const field = { collection: "users", path: "totp_seed" };
    await database.db
      .collection<{ _id: string; registered_by: string; collection: string; path: string }>("kek_fields")
      .insertOne({ _id: "users:totp_seed", ...field, registered_by: "this test" });
    const api = (host: InstallHost) =>
      apiClient(`http://${host.listen}`, host.text("/etc/certautopilot/api.token").trim());
    const place = (id: number) => ({ collection: field.collection, field: field.path, id });
    for (let id = 0; id < 20; id += 1) {
      const { status, body } = await api(one).post("encrypt", { ...place(id), plaintext: btoa(`seed ${id}`) });
      expect(status).toBe(200);
      const envelope = EJSON.deserialize(body.envelope, { relaxed: false });
      await database.db.collection<User>("users").insertOne({ _id: id, totp_seed: envelope });
    }
    const key = `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2=${kekHex()}\n`;
    for (const host of hosts) {
      const path = host.path("/etc/certautopilot/secrets.env");
      writeFileSync(path, readFileSync(path, "utf8").replace("CURRENT_VERSION=1", "CURRENT_VERSION=2") + key);
    }
    let ready = await two.run(["certautopilot", "kek", "verify", "--target=2", "--no-backup-check"]);
    for (let tries = 0; tries < 20 && ready.code !== 0; tries += 1) {
      await Bun.sleep(500);
      ready = await two.run(["certautopilot", "kek", "verify", "--target=2", "--no-backup-check"]);
    }
    expect([ready.code, ready.stdout]).toEqual([0, expect.any(String)]);
    const rotated = await two.run(["certautopilot", "kek", "rotate", "--to-version=2", "--no-backup-check", "--yes"]);
    expect([rotated.code, rotated.stdout]).toEqual([0, expect.stringContaining("20 records rewrapped")]);
    const stored = await database.db.collection<User>("users").find().toArray();
    expect(stored.map(({ totp_seed }) => totp_seed.kek_version)).toEqual(stored.map(() => 2));
    for (const { _id, totp_seed } of stored) {
      const envelope = EJSON.serialize(totp_seed, { relaxed: false });
      const { body } = await api(_id % 2 === 0 ? one : two).post("decrypt", { ...place(_id), envelope });
      expect(atob(body.plaintext)).toBe(`seed ${_id}`);
    }
    for (const host of hosts) {
      const { body } = await api(host).post("encrypt", { ...place(99), plaintext: btoa("new") });
      expect(EJSON.deserialize(body.envelope)).toMatchObject({ kek_version: 2 });
    }
  });

  test("below another root everything is laid down, nothing outside it, and nothing is started", async () => {
    const [, host] = hosts;
    mkdirSync(host.path("/srv/image/etc"), { recursive: true });
    for (const name of ["passwd", "group", "shadow", "gshadow"]) writeFileSync(host.path(`/srv/image/etc/${name}`), "");
    const before = [...host.traces().keys()];
    const words = ["install", "--root=/srv/image", "--mongo=local", "--mongod=/usr/bin/mongod"];
    const laid = await host.certautopilot(words);
    expect([laid.code, laid.stdout]).toEqual([
      0,
      expect.stringContaining("on the host itself run `certautopilot install` once"),
    ]);
    const fresh = [...host.traces().keys()].filter((path) => !before.includes(path));
    expect(fresh.filter((path) => !path.startsWith("/srv/image/"))).toEqual([]);
    expect(fresh).toContain("/srv/image/etc/systemd/system/multi-user.target.wants/certautopilot.service");
    expect(host.text("/srv/image/etc/certautopilot/secrets.env")).toContain("KEK_V1=");
    const traces = [...host.traces()];
    expect((await host.certautopilot(words)).stdout).toBe("nothing to change\n");
    expect([...host.traces()]).toEqual(traces);
    expect((await host.certautopilot(["uninstall", "--root=/srv/image"])).code).toBe(0);
    expect([...host.traces().keys()]).not.toContain("/srv/image/usr/local/bin/certautopilot");
    expect([...host.traces().keys()]).toContain("/srv/image/etc/certautopilot/secrets.env");
  });
});
