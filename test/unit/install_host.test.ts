import { describe, expect, test } from "bun:test";
import type { CurrentState } from "../../src/install/current_state.ts";
import { type Asked, checkHost } from "../../src/install/host_check.ts";
import type { HostFacts, Place } from "../../src/install/host_facts.ts";
import { LAYOUT } from "../../src/install/layout.ts";
import { mountOf, mountsBelow, parseMounts } from "../../src/install/mounts.ts";
import type { Action, Step } from "../../src/install/step.ts";

/** What a host has against an install: pure. */

const GIB = 2 ** 30;
const place = (path: string, over: Partial<Place> = {}): Place => ({
  path,
  mount: "/",
  readOnly: false,
  freeBytes: 10 * GIB,
  ...over,
});
const FACTS: HostFacts = {
  places: [LAYOUT.etc, LAYOUT.state, LAYOUT.binary, LAYOUT.serviceUnit].map((path) => place(path)),
  unreadable: new Map(),
  taken: new Map(),
  firstFreePort: 1024,
  changesUser: true,
  packagesBusy: undefined,
};
const step = (action: Action): Step => ({ ...action, title: "", change: true });
const ASKED: Asked = {
  steps: [step({ do: "binary", path: LAYOUT.binary, from: "" }), step({ do: "first_key", provider: "pkcs11" })],
  units: "started",
  token: true,
  programBytes: GIB,
  needs: [],
  listens: [],
};
const FOUND = {
  user: undefined,
  group: "certautopilot",
  userIsOurs: false,
  installed: undefined,
  systemd: { version: 252, userNamespaces: true },
} as CurrentState;

const blocking = (asked: Partial<Asked> = {}, facts: Partial<HostFacts> = {}, found: Partial<CurrentState> = {}) =>
  checkHost({ ...ASKED, ...asked }, { ...FACTS, ...facts }, { ...FOUND, ...found });

test("a host that has nothing against it", () => {
  expect(blocking()).toEqual([]);
});

describe("what keeps a host from being installed", () => {
  test("a file system that cannot be written, or has no room", () => {
    const readOnly = FACTS.places.map((each) =>
      each.path === LAYOUT.binary ? { ...each, mount: "/usr", readOnly: true } : each,
    );
    expect(blocking({}, { places: readOnly })).toMatchObject([
      { blocks: true, message: "/usr is mounted read-only, and install writes /usr/local/bin/certautopilot" },
    ]);
    // Where nothing is written, nothing is asked: an image with a read-only /usr gets its configuration.
    const config = step({ do: "file", path: LAYOUT.config, mode: 0, owner: "root", content: "", keeps: false });
    expect(blocking({ steps: [config] }, { places: readOnly })).toEqual([]);
    const full = FACTS.places.map((each) => ({ ...each, freeBytes: GIB / 2 }));
    expect(blocking({}, { places: full })).toMatchObject([
      { blocks: true, message: expect.stringMatching(/^\/ has 512 MiB free, and install needs 10\d\d MiB there$/) },
    ]);
  });

  test("a port that only root may have, that somebody has, and an address that is not this host's", () => {
    const listen = { flag: "--listen", what: "the service", isOurs: false };
    const at = (address: string, over = {}) => ({ listens: [{ ...listen, address, ...over }] });
    expect(blocking(at("127.0.0.1:443"))).toMatchObject([
      { message: expect.stringContaining("below port 1024 only root") },
    ]);
    const taken = new Map([["127.0.0.1:8181", "in use"]]);
    const [inUse] = blocking(at("127.0.0.1:8181"), { taken });
    expect(inUse).toMatchObject({ blocks: true, message: "the service cannot listen on 127.0.0.1:8181: it is in use" });
    expect(inUse?.hint).toContain("--listen");
    expect(blocking(at("127.0.0.1:8181", { isOurs: true }), { taken })).toEqual([]);
    // A port that cannot be changed any more: no flag is named.
    const [fixed] = blocking(at("127.0.0.1:8181", { flag: undefined, what: "MongoDB" }), { taken });
    expect(fixed?.hint).toBe("see what listens: ss -ltnp; stop it");
  });

  test("a file that the service's process will not see", () => {
    const needs = [{ what: "the PKCS#11 library", path: "/opt/hsm.so", real: "/home/me/hsm.so" }];
    expect(blocking({ needs })).toMatchObject([
      { blocks: true, message: expect.stringContaining("/opt/hsm.so (/home/me/hsm.so) is in a home directory") },
    ]);
    expect(blocking({ needs, units: "none" })).toEqual([]);
    const closed = { unreadable: new Map([["/opt/hsm.so", "/home/me"]]) };
    expect(blocking({ needs, units: "none" }, closed)).toMatchObject([
      { blocks: true, message: expect.stringContaining("/home/me is closed to it") },
    ]);
  });

  test("a systemd that is too old, and a setpriv that cannot change the user", () => {
    const old = { systemd: { version: 219, userNamespaces: true } };
    expect(blocking({}, {}, old)).toMatchObject([{ blocks: true, message: expect.stringContaining("systemd 219") }]);
    expect(blocking({ units: "none" }, {}, old)).toEqual([]);
    expect(blocking({}, { changesUser: false })).toMatchObject([{ message: expect.stringContaining("setpriv") }]);
    expect(blocking({ steps: [] }, { changesUser: false })).toEqual([]);
  });
});

test("what is said, and keeps nothing from being installed", () => {
  const notes = blocking(
    { steps: [...ASKED.steps, step({ do: "packages", names: ["mongodb-org-server"] })] },
    { packagesBusy: "apt-get (pid 812)" },
    { user: { uid: 1500, gid: 100 }, group: "users", systemd: { version: 245, userNamespaces: false } },
  );
  expect(notes.map(({ blocks }) => blocks)).toEqual([false, false, false, false]);
  const said = notes.map(({ message }) => message).join("\n");
  for (const part of ["systemd 245 has no ProtectProc=", "PrivateUsers=", "uid 1500, group users", "apt-get (pid 812)"])
    expect(said).toContain(part);
});

test("mounts, as the kernel lists them", () => {
  const mounts = parseMounts(
    [
      "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
      "30 22 0:25 / /tmp rw,nosuid,nodev,noexec shared:9 - tmpfs tmpfs rw",
      "31 22 8:2 / /usr rw,relatime - ext4 /dev/sda2 ro",
      "32 22 8:3 / /var/lib/a\\040b rw - ext4 /dev/sda3 rw",
      "33 32 8:4 / /var/lib/a\\040b/c rw - ext4 /dev/sda4 rw",
    ].join("\n"),
  );
  expect(mountOf("/tmp", mounts)).toEqual({ path: "/tmp", noexec: true, readOnly: false });
  expect(mountOf("/usr/local/not-there/x", mounts)).toEqual({ path: "/usr", noexec: false, readOnly: true });
  expect(mountOf("/etc", mounts)?.path).toBe("/");
  expect(mountsBelow("/var/lib/a b", mounts).map(({ path }) => path)).toEqual(["/var/lib/a b/c", "/var/lib/a b"]);
  expect(mountsBelow("/var/lib/a", mounts)).toEqual([]);
});
