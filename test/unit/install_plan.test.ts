import { describe, expect, test } from "bun:test";
import { editConfig } from "../../src/config/config_file.ts";
import { parseSecrets } from "../../src/config/secrets_file.ts";
import type { KekError } from "../../src/errors/errors.ts";
import type { CurrentState, Entry } from "../../src/install/current_state.ts";
import { desiredStateOf } from "../../src/install/desired_state.ts";
import { generateSecrets } from "../../src/install/generated_secrets.ts";
import { LAYOUT } from "../../src/install/layout.ts";
import { planInstall, readyUrl } from "../../src/install/plan.ts";
import { older, refuseDowngrade } from "../../src/install/release_version.ts";
import type { InstallRequest } from "../../src/install/request.ts";
import { carriedFrom, secretsText } from "../../src/install/secrets.ts";
import { changesOf, idsOf, type Step } from "../../src/install/step.ts";
import {
  hiddenByUnits,
  leftOut,
  mongodIn,
  mongodUnit,
  serviceUnit,
  stateDirectoryIn,
} from "../../src/install/units.ts";
import { asked } from "../harness/install_asked.ts";

/** The plan of an install, from what was asked and what is there: pure. */

const material = generateSecrets();
const service = { uid: 990, gid: 991 };

const FRESH: CurrentState = {
  user: undefined,
  group: "certautopilot",
  userIsOurs: false,
  systemd: { version: 252, userNamespaces: true },
  privileged: true,
  mayMakeUser: true,
  entries: new Map(),
  secrets: {},
  installed: undefined,
  binaryIsThis: false,
  installedVersion: undefined,
  mongodHasData: false,
  units: { service: { enabled: false, active: false }, mongod: { enabled: false, active: false } },
  mongod: "/usr/bin/mongod",
  mongodPackages: [],
  packageLists: true,
  tokenGroup: undefined,
  database: { seen: false },
};

const plan = (request: InstallRequest, found: CurrentState) =>
  planInstall(request, desiredStateOf(request, found, material), found, material);

/** The host after a plan was done. */
function after(steps: Step[], provider: "env" | "pkcs11" = "env"): CurrentState {
  const entries = new Map<string, Entry>();
  for (const step of steps) {
    if (step.do !== "directory" && step.do !== "file") continue;
    const kind = step.do;
    const content = step.do === "file" ? step.content : undefined;
    entries.set(step.path, { kind, mode: step.mode, ...(idsOf(step.owner, service) ?? service), content });
  }
  entries.set(LAYOUT.binary, { kind: "file", mode: 0o755, uid: 0, gid: 0, content: undefined });
  const up = { enabled: true, active: true };
  const token = { modulePath: "/usr/lib/hsm.so", tokenLabel: "ca" };
  return {
    ...FRESH,
    user: service,
    entries,
    secrets: parseSecrets(entries.get(LAYOUT.secrets)?.content ?? "", "secrets.env"),
    installed: {
      provider,
      databaseName: "certautopilot",
      listen: "127.0.0.1:8181",
      tls: false,
      ...(provider === "env" ? { modulePath: undefined, tokenLabel: undefined } : token),
    },
    binaryIsThis: true,
    installedVersion: "1.4.0",
    mongodHasData: true,
    units: { service: up, mongod: up },
  };
}

const titlesOf = (steps: Step[]) => changesOf(steps).map(({ title }) => title);

describe("a fresh host", () => {
  test("gets everything; keys are on disk before the lock, the configuration after it, units last", () => {
    const order = changesOf(plan(asked(), FRESH)).map((step) =>
      "path" in step ? step.path : "unit" in step ? `${step.do} ${step.unit}` : step.do,
    );
    expect(order).toEqual([
      "user",
      LAYOUT.etc,
      LAYOUT.state,
      LAYOUT.secrets,
      LAYOUT.apiToken,
      LAYOUT.mongodAdmin,
      LAYOUT.mongodKeyFile,
      LAYOUT.mongodConfig,
      LAYOUT.mongodData,
      "local_database",
      LAYOUT.secrets,
      LAYOUT.binary,
      "first_key",
      LAYOUT.config,
      LAYOUT.mongodUnit,
      LAYOUT.serviceUnit,
      "reload",
      "enable certautopilot-mongod.service",
      "enable certautopilot.service",
      "start certautopilot-mongod.service",
      "listening certautopilot-mongod.service",
      "start certautopilot.service",
      "ready certautopilot.service",
    ]);
  });

  test("no secret is in a title, a unit or the configuration", () => {
    const request = asked({
      provider: "pkcs11",
      token: { modulePath: "/usr/lib/hsm.so", label: "ca", pin: "98765432", stateDirectory: undefined },
    });
    const steps = plan(request, FRESH);
    const shown = steps
      .map((step) => step.title)
      .concat(steps.flatMap((step) => (step.do === "file" && step.mode > 0o600 ? [step.content] : [])));
    for (const secret of [...Object.values(material), "98765432"]) expect(shown.join("\n")).not.toContain(secret);
    expect(shown.join("\n")).toContain("pin_file: /etc/certautopilot/pin");
  });

  test("without a mongod, and without packages, is told where to get one", () => {
    expect(() => plan(asked(), { ...FRESH, mongod: undefined })).toThrow("needs a mongod");
    const steps = plan(asked(), { ...FRESH, mongod: undefined, mongodPackages: ["mongodb-org-server"] });
    expect(titlesOf(steps)).toContain("packages of the distribution: mongodb-org-server");
    const hintOf = (packageLists: boolean) => {
      try {
        return plan(asked(), { ...FRESH, mongod: undefined, packageLists });
      } catch (thrown) {
        return (thrown as KekError).hint;
      }
    };
    expect(hintOf(true)).toStartWith("add MongoDB's repository");
    expect(hintOf(false)).toStartWith("this host has no lists of packages: run apt-get update first");
  });

  test("below another root nothing is started, set up or locked", () => {
    const steps = changesOf(plan(asked({ root: "/srv/image", units: "laid" }), FRESH));
    const doing = new Set(steps.map((step) => step.do));
    for (const never of ["local_database", "first_key", "reload", "start", "ready", "packages"] as const)
      expect(doing.has(never)).toBe(false);
    expect(steps.find((step) => step.do === "file" && step.path === LAYOUT.secrets)).not.toHaveProperty(
      "content",
      expect.stringContaining("DATABASE_URI"),
    );
  });
});

describe("keys that are gone", () => {
  const installed = after(plan(asked(), FRESH));
  const without = (...paths: string[]): CurrentState => {
    const entries = new Map([...installed.entries].filter(([path]) => !paths.includes(path)));
    const secrets = paths.includes(LAYOUT.secrets) ? {} : installed.secrets;
    return {
      ...installed,
      entries,
      secrets,
      installed: paths.includes(LAYOUT.config) ? undefined : installed.installed,
    };
  };

  test("are never replaced: not beside a configuration, and not beside the data of a database", () => {
    expect(() => plan(asked(), without(LAYOUT.secrets))).toThrow(
      "this host has /var/lib/certautopilot/mongodb of an earlier install, and /etc/certautopilot/secrets.env is gone: new keys would not open its secrets",
    );
    const moved = { ...without(LAYOUT.secrets), mongodHasData: false };
    expect(() => plan(asked(), moved)).toThrow("/etc/certautopilot/config.yaml of an earlier install");
    expect(() => plan(asked(), without(...Object.values(LAYOUT).filter((path) => path.startsWith("/etc/"))))).toThrow(
      "new keys would not open its secrets",
    );
    expect(() => plan(asked(), without(LAYOUT.mongodAdmin))).toThrow("mongod-admin.env with the password is gone");
  });

  test("each of them counts", () => {
    for (const name of Object.keys(installed.secrets).filter((name) => /KEK_V|AUDIT/.test(name))) {
      const { [name]: _, ...secrets } = installed.secrets;
      expect(() => plan(asked(), { ...installed, secrets })).toThrow(name.replace("V1", "V…"));
    }
  });

  test("come from another host of the fleet, where the database is not this host's", () => {
    const uri = "mongodb://u:p@db1/?replicaSet=rs0";
    const external = after(plan(asked({ mongo: "external", uri }), FRESH));
    const lost = { ...external, mongodHasData: false, secrets: {} };
    lost.entries = new Map([...external.entries].filter(([path]) => path !== LAYOUT.secrets));
    expect(() => plan(asked({ mongo: "external", uri }), lost)).toThrow("new keys would not open its secrets");
    const steps = plan(asked({ mongo: "external", carried: external.secrets }), lost);
    expect(titlesOf(steps)).toContain("keys /etc/certautopilot/secrets.env (0600 certautopilot)");
  });

  test("an interrupted first run is finished: its keys are there before its database", () => {
    const steps = plan(asked(), FRESH);
    for (let count = 1; count <= steps.length; count += 1) {
      const done = after(steps.slice(0, count));
      const config = done.entries.has(LAYOUT.config);
      const database = steps.slice(0, count).some((step) => step.do === "local_database");
      const interrupted = { ...done, mongodHasData: database, installed: config ? done.installed : undefined };
      expect(() => plan(asked(), interrupted)).not.toThrow();
    }
  });
});

describe("a host that is installed", () => {
  const installed = after(plan(asked(), FRESH));

  test("keeps what its administrator has changed: mongod's configuration and password", () => {
    const entries = new Map(installed.entries);
    const edit = (path: string, content: string) => entries.set(path, { ...(entries.get(path) as Entry), content });
    edit(LAYOUT.mongodConfig, "net:\n  port: 27500 # ours\nstorage:\n  dbPath: /data\n");
    edit(LAYOUT.mongodAdmin, "MONGODB_ADMIN_URI=mongodb://admin:my%20own@127.0.0.1:27500/\n");
    const steps = plan(asked({ mongo: undefined }), { ...installed, entries });
    expect(titlesOf(steps)).toEqual([]);
    const wanted = desiredStateOf(asked({ mongo: undefined }), { ...installed, entries }, material);
    expect(wanted.mongo).toEqual({ kind: "local", port: 27_500, adminPassword: "my own" });
    edit(LAYOUT.mongodConfig, "net: {}\n");
    expect(() => plan(asked({ mongo: undefined }), { ...installed, entries })).toThrow("names no port");
  });

  test("declares nothing on a host that is installed", () => {
    const { CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: _, ...secrets } = installed.secrets;
    const text = Object.entries(secrets).map(([name, value]) => `${name}=${value}\n`);
    const entries = new Map(installed.entries);
    entries.set(LAYOUT.secrets, { ...(entries.get(LAYOUT.secrets) as Entry), content: text.join("") });
    expect(titlesOf(plan(asked(), { ...installed, secrets, entries }))).toEqual([]);
  });

  test("is told which release replaces which, and an older one is refused", () => {
    const found = { ...installed, binaryIsThis: false, installedVersion: "1.3.0" };
    expect(titlesOf(plan(asked(), found))[0]).toBe("program 1.3.0 → 1.4.0 /usr/local/bin/certautopilot (0755 root)");
    expect(() => refuseDowngrade("1.4.1", "1.4.0")).toThrow("1.4.0 is older than 1.4.1, which is installed");
    refuseDowngrade("1.4.0", "1.4.1");
    refuseDowngrade(undefined, "1.4.1");
  });

  test("gets its configuration back when the service does not take the new one", () => {
    const changed = plan(asked({ listen: "127.0.0.1:9000" }), installed);
    expect(changed.find((step) => step.do === "file" && step.path === LAYOUT.config)).toHaveProperty("keeps", false);
    const first = plan(asked(), FRESH);
    expect(first.find((step) => step.do === "file" && step.path === LAYOUT.config)).toHaveProperty("keeps", true);
  });

  test("has nothing to change, with the same flags and with none", () => {
    expect(titlesOf(plan(asked(), installed))).toEqual([]);
    expect(titlesOf(plan(asked({ mongo: undefined }), installed))).toEqual([]);
  });

  test("gets what another flag touches, and a restart", () => {
    expect(titlesOf(plan(asked({ listen: "127.0.0.1:9000" }), installed))).toEqual([
      "configuration /etc/certautopilot/config.yaml (0640 root:certautopilot)",
      "certautopilot.service restarted",
      "ready: http://127.0.0.1:9000/readyz answers 200",
    ]);
  });

  test("gets rights back that somebody has changed, and its content stays", () => {
    const entries = new Map(installed.entries);
    entries.set(LAYOUT.secrets, { ...(entries.get(LAYOUT.secrets) as Entry), mode: 0o644 });
    const [first] = changesOf(plan(asked(), { ...installed, entries }));
    expect(first).toMatchObject({
      do: "file",
      path: LAYOUT.secrets,
      mode: 0o600,
      content: entries.get(LAYOUT.secrets)?.content,
    });
  });

  test("is swept of what an interrupted run left", () => {
    const entries = new Map(installed.entries).set("/usr/local/bin/.certautopilot.old", {
      kind: "file",
      mode: 0o755,
      uid: 0,
      gid: 0,
      content: undefined,
    });
    // The service may still run what was replaced.
    expect(changesOf(plan(asked(), { ...installed, entries }))).toMatchObject([
      { do: "start", restart: true },
      { do: "ready" },
      { do: "remove_leftover", path: "/usr/local/bin/.certautopilot.old" },
    ]);
  });

  test("refuses what contradicts it", () => {
    const token = { modulePath: "/usr/lib/hsm.so", label: "ca", pin: "1234", stateDirectory: undefined };
    expect(() => plan(asked({ provider: "pkcs11", token }), installed)).toThrow(
      'KEK provider mismatch: installed="env"',
    );
    expect(() => plan(asked({ mongo: "external" }), installed)).toThrow("installed with --mongo=local");
    expect(() => plan(asked({ mongoPort: 1 }), installed)).toThrow("listens on port 27017");
    const carried = { CERTAUTOPILOT_AUDIT_SECRET: "another" };
    expect(() => plan(asked({ carried }), installed)).toThrow("has another CERTAUTOPILOT_AUDIT_SECRET");
  });

  test("never gives up a PIN for another", () => {
    const token = { modulePath: "/usr/lib/hsm.so", label: "ca", pin: "1234", stateDirectory: undefined };
    const hsm = after(plan(asked({ provider: "pkcs11", token }), FRESH), "pkcs11");
    expect(titlesOf(plan(asked({ mongo: undefined }), hsm))).toEqual([]);
    expect(() => plan(asked({ token: { ...token, pin: "4321" } }), hsm)).toThrow("holds another PIN");
  });
});

test("a second host: keys are carried, or it is refused", () => {
  const database = {
    seen: true,
    fence: true,
    versions: [],
    lock: { provider: "env", lockedAt: new Date("2026-05-01T09:00:00Z"), installId: "x" },
  } as const;
  const uri = "mongodb://u:p@db1/?replicaSet=rs0";
  const joining = asked({ mongo: "external", uri });
  expect(() => plan(joining, { ...FRESH, database: { ...database, versions: [] } })).toThrow("has its keys already");
  const carried = carriedFrom({
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V3: "ab",
    CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: "3",
    CERTAUTOPILOT_AUDIT_SECRET: "s",
    CERTAUTOPILOT_INSTANCE_NAME: "one",
    CERTAUTOPILOT_DATABASE_URI: uri,
  });
  const steps = plan(asked({ mongo: "external", carried }), { ...FRESH, database: { ...database, versions: [] } });
  const secrets = steps.find((step) => step.do === "file" && step.path === LAYOUT.secrets) as { content: string };
  expect(parseSecrets(secrets.content, "secrets.env")).toEqual({
    CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V3: "ab",
    CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: "3",
    CERTAUTOPILOT_AUDIT_SECRET: "s",
    CERTAUTOPILOT_DATABASE_URI: uri,
  });
  expect(() =>
    plan(asked({ mongo: "external", uri, provider: "pkcs11" }), { ...FRESH, database: { ...database, versions: [] } }),
  ).toThrow(
    'KEK provider mismatch: installed="env" (since 2026-05-01T09:00:00Z) but config says "pkcs11". Provider is immutable after install.',
  );
});

test("secrets.env keeps every line that is there", () => {
  const text = "# mine\nCERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2=aa\nCERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=2";
  const fresh = secretsText(
    text,
    parseSecrets(text, "x"),
    { provider: "env", uri: "mongodb://h/", carried: undefined, isFirst: true },
    material,
  );
  expect(fresh).toBe(
    `${text}\nCERTAUTOPILOT_AUDIT_SECRET=${material.auditSecret}\nCERTAUTOPILOT_DATABASE_URI=mongodb://h/\n`,
  );
});

test("a key that is there is the one that is declared", () => {
  const declared = (text: string) => {
    const wanted = { provider: "env", uri: undefined, carried: undefined, isFirst: true } as const;
    const made = secretsText(text, parseSecrets(text, "x"), wanted, material);
    return parseSecrets(made, "x")["CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION"];
  };
  expect(declared("")).toBe("1");
  expect(declared("CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V3=aa\n")).toBe("3");
  expect(declared("CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V3=aa\nCERTAUTOPILOT_ENCRYPTION_ENV_KEK_V4=bb\n")).toBeUndefined();
});

test("config.yaml is edited in place", () => {
  const text = "# of ours\nserver:\n  listen: 127.0.0.1:8181 # loopback\n";
  expect(editConfig(text, [[["server", "listen"], "127.0.0.1:8181"]])).toBe(text);
  expect(
    editConfig(text, [
      [["server", "listen"], "127.0.0.1:1"],
      [["instance_name"], "a"],
    ]),
  ).toBe("# of ours\nserver:\n  listen: 127.0.0.1:1 # loopback\ninstance_name: a\n");
  expect(() => editConfig("a: [", [[["b"], "c"]])).toThrow("not a YAML mapping");
});

test("units say what they were made from", () => {
  expect(mongodIn(mongodUnit("/opt/mongodb/bin/mongod", FRESH))).toBe("/opt/mongodb/bin/mongod");
  const token = { stateDirectory: "/var/lib/softhsm/tokens", group: "softhsm" };
  const unit = serviceUnit({ localMongo: false, token }, FRESH);
  expect(stateDirectoryIn(unit)).toBe("/var/lib/softhsm/tokens");
  expect(unit).toContain("SupplementaryGroups=softhsm\n");
  expect(unit).toContain("RestartPreventExitStatus=2 3 4 8\n");
  expect(stateDirectoryIn(serviceUnit({ localMongo: true, token: undefined }, FRESH))).toBeUndefined();
});

test("units are made for the host's systemd and its user", () => {
  const unitOf = (version: number | undefined, userNamespaces = true) =>
    serviceUnit({ localMongo: false, token: undefined }, { group: "users", systemd: { version, userNamespaces } });
  expect(unitOf(252)).toContain("User=certautopilot\nGroup=users\n");
  expect(unitOf(undefined)).toBe(unitOf(252));
  expect(unitOf(247)).toBe(unitOf(252));
  for (const line of ["Type=exec", "ProtectProc=invisible", "ProcSubset=pid", "ProtectClock=yes"]) {
    expect(unitOf(247)).toContain(`\n${line}\n`);
    expect(unitOf(239)).not.toContain(line);
  }
  expect(unitOf(239)).toContain("\nType=simple\n");
  expect(leftOut({ version: 239, userNamespaces: true })).toContain("ProtectProc=");
  expect(leftOut({ version: 252, userNamespaces: true })).toEqual([]);
  expect(unitOf(252)).toContain("PrivateUsers=yes");
  expect(unitOf(252, false)).not.toContain("PrivateUsers");
  expect(mongodUnit("/usr/bin/mongod", { group: "g", systemd: { version: 252, userNamespaces: false } })).not.toContain(
    "PrivateUsers",
  );
  // Executable whatever the host's /tmp is, without a directive that an older systemd ignores.
  expect(unitOf(240)).toMatch(/^TemporaryFileSystem=\/tmp:mode=1777,exec/m);
  expect(unitOf(252)).not.toContain("ExecPaths");
});

test("what units hide from their processes", () => {
  for (const path of ["/root/mongod", "/home/me/lib.so", "/run/user/0/x", "/tmp/mongod", "/var/tmp/state"])
    expect(hiddenByUnits(path)).toBeString();
  for (const path of ["/usr/bin/mongod", "/rooted/x", "/opt/home/x", "/var/lib/softhsm/tokens"])
    expect(hiddenByUnits(path)).toBeUndefined();
});

test("where readyz is asked, and which release is older", () => {
  expect(readyUrl("0.0.0.0:8181", true)).toBe("https://127.0.0.1:8181/readyz");
  expect(readyUrl("[::]:80", false)).toBe("http://[::1]:80/readyz");
  expect(older("1.4.0", "1.4.1")).toBe(true);
  expect(older("1.10.0", "1.9.9")).toBe(false);
  expect(older("1.5.0-rc.1", "1.5.0")).toBe(true);
  expect(older("1.5.0", "1.5.0")).toBe(false);
});
