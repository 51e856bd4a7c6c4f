import { afterEach, describe, expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/config/load.ts";
import type { KekError } from "../../src/errors/errors.ts";
import { buildRegistry } from "../../src/providers/registry.ts";
import { refusalOf } from "../harness/codes.ts";
import { scratchDirectory } from "../harness/scratch.ts";

const directory = scratchDirectory();
let made = 0;
function file(content: string, mode = 0o600): string {
  made += 1;
  const path = join(directory, `f${made}`);
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

describe("the settings of pkcs11", () => {
  const P = "CERTAUTOPILOT_ENCRYPTION_PKCS11_";
  const PIN = "0042-secret-pin";
  const MODULE = join(directory, "no-such-module.so");
  const given: string[] = [];
  const environment = (variables: Record<string, string>) => {
    const all = { CERTAUTOPILOT_DATABASE_URI: "mongodb://localhost/?replicaSet=rs0", ...variables };
    for (const [name, value] of Object.entries(all)) {
      process.env[name] = value;
      given.push(name);
    }
  };
  afterEach(() => {
    for (const name of given.splice(0)) delete process.env[name];
  });
  const yaml = (lines: string[], mode = 0o600) =>
    file(
      ["encryption:", "  provider: pkcs11", "  pkcs11:", ...lines.map((line) => `    ${line}`), ""].join("\n"),
      mode,
    );
  const refused = async (configFile?: string): Promise<KekError> => {
    const refusal = await refusalOf(() => loadConfig(configFile));
    if (refusal === undefined) throw new Error("it was accepted");
    return refusal;
  };

  test("come from the environment", () => {
    environment({
      CERTAUTOPILOT_ENCRYPTION_PROVIDER: "pkcs11",
      [`${P}MODULE_PATH`]: "/opt/hsm.so",
      [`${P}TOKEN_LABEL`]: "my token",
      [`${P}PIN`]: PIN,
      [`${P}PIN_FILE`]: "/run/pin",
      [`${P}SESSIONS`]: "12",
      [`${P}USE_GCM_IV_FROM_HSM`]: "true",
      [`${P}SOFTHSM_BACKUP_DIR`]: "/var/lib/certautopilot/softhsm-backup",
    });
    const { provider, pkcs11 } = loadConfig().encryption;
    expect(provider).toBe("pkcs11");
    expect(pkcs11).toEqual({
      modulePath: "/opt/hsm.so",
      tokenLabel: "my token",
      pin: PIN,
      pinFile: "/run/pin",
      sessions: 12,
      startLimitMs: 60_000,
      callLimitMs: 10_000,
      ownIvs: true,
      softHsmBackup: "/var/lib/certautopilot/softhsm-backup",
    });
  });

  test("a secrets file, which the service's user owns, cannot make root load a library or write a file", async () => {
    const names = [
      "ENCRYPTION_PKCS11_MODULE_PATH",
      "ENCRYPTION_PROVIDER",
      "AUDIT_FILE",
      "SECRETS_FILE",
      "API_TOKEN_FILE",
    ];
    for (const name of names.map((each) => `CERTAUTOPILOT_${each}`)) {
      environment({ CERTAUTOPILOT_SECRETS_FILE: file(`${P}PIN=${PIN}\n${name}=/tmp/evil\n`) });
      const error = await refused(yaml(["module_path: /opt/hsm.so", "token_label: of the file"]));
      expect([error.code, error.message]).toEqual(["config_invalid", expect.stringContaining(`sets ${name},`)]);
      expect(error.message).not.toContain("evil");
    }
  });

  test("come from config.yaml and the secrets file, the environment before both", async () => {
    const secrets = file(`${P}PIN=${PIN}\n`);
    environment({ CERTAUTOPILOT_SECRETS_FILE: secrets, [`${P}SESSIONS`]: "3" });
    const path = yaml([
      "module_path: /opt/hsm.so",
      "token_label: of the file",
      "sessions: 9",
      "use_gcm_iv_from_hsm: yes",
    ]);
    expect((await refused(path)).message).toContain("is neither true nor false");
    const right = yaml([
      "module_path: /opt/hsm.so",
      "token_label: of the file",
      "sessions: 9",
      "use_gcm_iv_from_hsm: true",
    ]);
    expect(loadConfig(right).encryption.pkcs11).toEqual({
      modulePath: "/opt/hsm.so",
      tokenLabel: "of the file",
      pin: PIN,
      pinFile: undefined,
      sessions: 3,
      startLimitMs: 60_000,
      callLimitMs: 10_000,
      ownIvs: true,
    });
    expect(loadConfig(yaml(["token_label: x"], 0o644)).encryption.pkcs11?.ownIvs).toBe(false);
  });

  test("refuse a PIN that YAML took for a number, in words that help and without the PIN", async () => {
    environment({});
    for (const pin of ["271828", "0042", "[2, 7]"]) {
      const { code, message, hint } = await refused(yaml([`pin: ${pin}`]));
      expect(code).toBe("config_invalid");
      expect(message).toBe(`${P}PIN (encryption.pkcs11.pin) must be text: put the PIN in quotes`);
      expect(`${message}${hint}`).not.toMatch(/271828|42|2, 7/);
    }
    expect(loadConfig(yaml(['pin: "0042"'])).encryption.pkcs11?.pin).toBe("0042");
  });

  test("refuse a configuration file that others can read, when a PIN is in it", async () => {
    environment({});
    const { code, message } = await refused(yaml([`pin: "${PIN}"`], 0o644));
    expect(code).toBe("secrets_file_exposed");
    expect(message).not.toContain(PIN);
  });

  test("refuse numbers of sessions that are none, by the name of the setting", async () => {
    for (const sessions of ["0", "257", "-1", "1.5", "many", ""]) {
      environment({});
      const { code, message } = await refused(yaml([`sessions: "${sessions}"`]));
      expect(code).toBe("config_invalid");
      expect(message).toStartWith(`${P}SESSIONS (encryption.pkcs11.sessions) `);
      environment({ [`${P}SESSIONS`]: sessions === "" ? "x" : sessions });
      expect((await refused()).message).toStartWith(`${P}SESSIONS `);
      delete process.env[`${P}SESSIONS`];
    }
    for (const sessions of ["1", "256"]) {
      environment({ [`${P}SESSIONS`]: sessions });
      expect(loadConfig().encryption.pkcs11?.sessions).toBe(Number(sessions));
    }
  });

  test("refuse a word that is not known, and a flag that is neither true nor false", async () => {
    environment({});
    expect((await refused(yaml(["slot: 3"]))).message).toBe("encryption.pkcs11.slot is not a known setting");
    environment({ [`${P}USE_GCM_IV_FROM_HSM`]: "1" });
    expect((await refused()).message).toContain("is neither true nor false");
  });

  test("name what is missing when the provider is made", async () => {
    const build = async (variables: Record<string, string>) => {
      environment({ CERTAUTOPILOT_ENCRYPTION_PROVIDER: "pkcs11", ...variables });
      return await refusalOf(async () => await buildRegistry(loadConfig(), undefined));
    };
    const noModule = await build({ [`${P}TOKEN_LABEL`]: "x" });
    expect(noModule).toMatchObject({ code: "config_invalid", message: expect.stringContaining(`${P}MODULE_PATH`) });
    delete process.env[`${P}TOKEN_LABEL`];
    const noLabel = await build({ [`${P}MODULE_PATH`]: MODULE });
    expect(noLabel).toMatchObject({ code: "config_invalid", message: expect.stringContaining(`${P}TOKEN_LABEL`) });
  });

  test("take the PIN from a file of one line that is this user's alone", async () => {
    const build = async (pinFile: string) => {
      const common = { [`${P}MODULE_PATH`]: MODULE, [`${P}TOKEN_LABEL`]: "x", [`${P}PIN_FILE`]: pinFile };
      environment({ CERTAUTOPILOT_ENCRYPTION_PROVIDER: "pkcs11", ...common });
      return await refusalOf(async () => await buildRegistry(loadConfig(), undefined));
    };
    for (const mode of [0o644, 0o640, 0o604]) {
      const path = file(`${PIN}\n`, mode);
      const exposed = await build(path);
      expect(exposed?.code).toBe("secrets_file_exposed");
      expect(exposed?.message).toContain(`PIN file ${path}`);
      expect(`${exposed?.message}${exposed?.hint}`).not.toContain(PIN);
    }
    for (const content of ["", "\n", `${PIN}\n${PIN}\n`])
      expect((await build(file(content)))?.code).toBe("secret_unreadable");
    expect((await build(join(directory, "no-pin")))?.code).toBe("secret_unreadable");
    // Past the PIN, it is the module that is looked for.
    for (const content of [PIN, `${PIN}\n`, `${PIN}\r\n`])
      expect((await build(file(content)))?.code).toBe("hsm_module");
  });
});
