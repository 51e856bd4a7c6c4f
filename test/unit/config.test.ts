import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { loadConfig } from "../../src/config/load.ts";
import { kekVersionOf } from "../../src/config/schema.ts";
import { isPrivate, parseSecrets, readSecretsFile, removeSecret } from "../../src/config/secrets_file.ts";
import { EnvProvider } from "../../src/providers/env.ts";

const directory = mkdtempSync(join(tmpdir(), "certautopilot-config-"));
afterAll(() => rmSync(directory, { recursive: true }));
let made = 0;
function file(content: string, mode = 0o600): string {
  made += 1;
  const path = join(directory, `f${made}`);
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

describe("the secrets file", () => {
  test("is read line by line", () => {
    expect(parseSecrets("# c\n\nexport A=1\nB = \"x y\"\nC='z'\nD=a=b\r\n", "f")).toEqual({
      A: "1",
      B: "x y",
      C: "z",
      D: "a=b",
    });
  });

  test("names a bad line by number, never by content", () => {
    expect(() => parseSecrets("A=1\nsecret-without-a-key", "f")).toThrow("line 2");
    expect(() => parseSecrets("A=1\nsecret-without-a-key", "f")).not.toThrow(/secret-without/);
    expect(() => parseSecrets("A=1\nA=2", "f")).toThrow("sets A twice");
  });

  test("is refused when group or others can read it", () => {
    for (const mode of [0o644, 0o640, 0o604, 0o660])
      expect(() => readSecretsFile(file("A=1", mode))).toThrow(`0${mode.toString(8)}`);
    expect(readSecretsFile(file("A=1", 0o600))).toEqual({ A: "1" });
    expect(readSecretsFile(file("A=1", 0o400))).toEqual({ A: "1" });
    expect(() => readSecretsFile(join(directory, "none"))).toThrow("ENOENT");
  });

  test("may be root's for the program's own group, as Kubernetes mounts a Secret, and no other's", () => {
    const pod = { uid: 65532, gid: 65532 };
    const mounted = { uid: 0, gid: 65532, mode: 0o440 };
    expect(isPrivate(mounted, pod)).toBe(true);
    expect(isPrivate({ ...mounted, mode: 0o640 }, pod)).toBe(true);
    for (const mode of [0o444, 0o460, 0o450, 0o441, 0o660]) expect(isPrivate({ ...mounted, mode }, pod)).toBe(false);
    // Not root's to give, another group's, or read by root itself, which needs no group.
    expect(isPrivate({ ...mounted, uid: 65532 }, pod)).toBe(false);
    expect(isPrivate({ ...mounted, gid: 100 }, pod)).toBe(false);
    expect(isPrivate({ ...mounted, gid: 0 }, { uid: 0, gid: 0 })).toBe(false);
    expect(isPrivate(mounted, { uid: undefined, gid: undefined })).toBe(false);
  });

  test("loses one line and keeps the others and its mode", () => {
    const path = file("# keep\nA=1\nexport B=2\nAB=3\n");
    const none = { ending: "copy", keep: false };
    expect(removeSecret(path, "B", none)).toEqual({ line: "removed", copy: undefined });
    expect(readFileSync(path, "utf8")).toBe("# keep\nA=1\nAB=3\n");
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(removeSecret(path, "B", none)).toEqual({ line: "absent", copy: undefined });
  });

  test("a copy of the line is kept where it is asked for: 0600, never over another file, and once it is there it is found", () => {
    const path = file("A=1\nexport B=2\n");
    const [copy, kept] = [`${path}.was-b`, { ending: "was-b", keep: true }];
    writeFileSync(copy, "B=another\n", { mode: 0o600 });
    expect(() => removeSecret(path, "B", kept)).toThrow(`${copy} exists and holds something else`);
    expect([readFileSync(path, "utf8"), readFileSync(copy, "utf8")]).toEqual(["A=1\nexport B=2\n", "B=another\n"]);
    unlinkSync(copy);
    // An interrupted run left a part of it.
    const unfinished = join(dirname(path), `.${basename(copy)}.new`);
    writeFileSync(unfinished, "export B", { mode: 0o600 });
    expect(removeSecret(path, "B", kept)).toEqual({ line: "removed", copy });
    expect([readFileSync(path, "utf8"), readFileSync(copy, "utf8")]).toEqual(["A=1\n", "export B=2\n"]);
    expect([statSync(copy).mode & 0o777, existsSync(unfinished)]).toEqual([0o600, false]);
    expect(removeSecret(path, "B", kept)).toEqual({ line: "absent", copy });
    expect(removeSecret(path, "A", { ending: "was-a", keep: true }).copy).toBe(`${path}.was-a`);
  });
});

describe("the audit secret", () => {
  const variables = { CERTAUTOPILOT_DATABASE_URI: "mongodb://localhost/", CERTAUTOPILOT_AUDIT_SECRET: "" };
  const withSecret = (secret: string) => {
    Object.assign(process.env, variables, { CERTAUTOPILOT_AUDIT_SECRET: secret });
    try {
      return loadConfig().audit.secret;
    } finally {
      for (const name of Object.keys(variables)) delete process.env[name];
    }
  };

  test("is none, or too long to be guessed: a placeholder of the documentation is refused, and not shown", () => {
    expect(withSecret("")).toBe("");
    expect(withSecret("0123456789abcdef")).toBe("0123456789abcdef");
    for (const short of ["<64 hex digits>", "…", "0123456789abcde"]) {
      expect(() => withSecret(short)).toThrow(/AUDIT_SECRET .* must be at least 16 bytes: .*openssl rand -hex 32/);
      expect(() => withSecret(short)).not.toThrow(short);
    }
  });
});

describe("a KEK's name and value", () => {
  test("a version is a positive number without leading zeros, in int32", () => {
    expect(kekVersionOf("KEK_V1")).toBe(1);
    expect(kekVersionOf("kek_v2147483647")).toBe(2147483647);
    for (const name of ["KEK_V0", "KEK_V01", "KEK_V", "KEK_V2147483648", "KEK_V1x", "XKEK_V1"])
      expect(kekVersionOf(name)).toBeUndefined();
  });

  test("is 64 hex digits; anything else is refused by name, the value never shown", () => {
    const secret = "ab".repeat(31);
    for (const hex of [secret, `${secret}c`, `${secret}zz`, `${secret}abab`, ` ${secret}a`]) {
      const make = () => new EnvProvider({ keks: { 3: { setting: "THE_SETTING", hex } }, secretsFile: undefined });
      expect(make).toThrow("THE_SETTING");
      expect(make).not.toThrow(new RegExp(secret.slice(0, 8)));
    }
  });

  test("two keys for one version are refused, the same key twice is not", () => {
    const path = file(`CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1=${"AB".repeat(32)}\n`);
    const provider = (hex: string) => new EnvProvider({ keks: { 1: { setting: "X", hex } }, secretsFile: path });
    expect(provider("ab".repeat(32)).held()).toEqual([1]);
    expect(() => provider("cd".repeat(32))).toThrow("different keys for version 1");
  });
});
