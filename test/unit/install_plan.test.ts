import { describe, expect, test } from "bun:test";
import { editConfig } from "../../src/config/config_file.ts";
import { parseSecrets } from "../../src/config/secrets_file.ts";
import type { Entry, Found } from "../../src/install/found.ts";
import { LAYOUT } from "../../src/install/layout.ts";
import { newMaterial } from "../../src/install/material.ts";
import { planInstall, readyUrl } from "../../src/install/plan.ts";
import type { InstallRequest } from "../../src/install/request.ts";
import { carriedFrom, secretsText } from "../../src/install/secrets.ts";
import { changesOf, idsOf, type Step } from "../../src/install/step.ts";
import { mongodIn, mongodUnit, serviceUnit, stateDirectoryIn } from "../../src/install/units.ts";
import { older } from "../../src/install/update.ts";
import { settleWanted } from "../../src/install/wanted.ts";

/** The plan of an install, from what was asked and what is there: pure. */

const material = newMaterial();
const service = { uid: 990, gid: 991 };

const FRESH: Found = {
  user: undefined,
  privileged: true,
  mayMakeUser: true,
  entries: new Map(),
  secrets: {},
  installed: undefined,
  binaryIsThis: false,
  units: { service: { enabled: false, active: false }, mongod: { enabled: false, active: false } },
  mongod: "/usr/bin/mongod",
  mongodPackages: [],
  tokenGroup: undefined,
  database: { seen: false },
};

const asked = (over: Partial<InstallRequest> = {}): InstallRequest => ({
  root: "",
  units: "started",
  mongo: "local",
  uri: undefined,
  databaseName: undefined,
  mongod: undefined,
  mongoPort: undefined,
  provider: undefined,
  token: { modulePath: undefined, label: undefined, pin: undefined, stateDirectory: undefined },
  carried: undefined,
  listen: undefined,
  instanceName: undefined,
  binary: "/tmp/certautopilot",
  ...over,
});

const plan = (request: InstallRequest, found: Found) =>
  planInstall(request, settleWanted(request, found, material), found, material);

/** The host after a plan was done. */
function after(steps: Step[], provider: "env" | "pkcs11" = "env"): Found {
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
      LAYOUT.mongodAdmin,
      LAYOUT.mongodKeyFile,
      LAYOUT.mongodConfig,
      LAYOUT.mongodData,
      "local_database",
      LAYOUT.secrets,
      LAYOUT.apiToken,
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

describe("a host that is installed", () => {
  const installed = after(plan(asked(), FRESH));

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
    { provider: "env", uri: "mongodb://h/", carried: undefined },
    material,
  );
  expect(fresh).toBe(
    `${text}\nCERTAUTOPILOT_AUDIT_SECRET=${material.auditSecret}\nCERTAUTOPILOT_DATABASE_URI=mongodb://h/\n`,
  );
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
  expect(mongodIn(mongodUnit("/opt/mongodb/bin/mongod"))).toBe("/opt/mongodb/bin/mongod");
  const token = { stateDirectory: "/var/lib/softhsm/tokens", group: "softhsm" };
  const unit = serviceUnit({ localMongo: false, token });
  expect(stateDirectoryIn(unit)).toBe("/var/lib/softhsm/tokens");
  expect(unit).toContain("SupplementaryGroups=softhsm\n");
  expect(unit).toContain("RestartPreventExitStatus=2 3 4 8\n");
  expect(stateDirectoryIn(serviceUnit({ localMongo: true, token: undefined }))).toBeUndefined();
});

test("where readyz is asked, and which release is older", () => {
  expect(readyUrl("0.0.0.0:8181", true)).toBe("https://127.0.0.1:8181/readyz");
  expect(readyUrl("[::]:80", false)).toBe("http://[::1]:80/readyz");
  expect(older("1.4.0", "1.4.1")).toBe(true);
  expect(older("1.10.0", "1.9.9")).toBe(false);
  expect(older("1.5.0-rc.1", "1.5.0")).toBe(true);
  expect(older("1.5.0", "1.5.0")).toBe(false);
});
