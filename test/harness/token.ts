import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, cpSync, mkdirSync, mkdtempSync, openSync, readSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Variables } from "./program.ts";

/** Real SoftHSM tokens, each in a directory of its own, and the module that misbehaves on demand (test/hsm/shim.c). */

export const SOFTHSM = process.env["CERTAUTOPILOT_TEST_SOFTHSM"] ?? "/usr/lib/softhsm/libsofthsm2.so";
export const PIN = "hsm-pin-31415926";
export const SO_PIN = "security-officer-27182818";

/** The words of the shim's control file; test/hsm/shim.c has the same list. */
const WORDS = {
  latencyUs: 0,
  slowInit: 1,
  failIn: 2,
  failCode: 3,
  failPpm: 4,
  ivMode: 5,
  sessionLimit: 6,
  away: 7,
  tokenFlags: 8,
  loginCode: 9,
  drops: 10,
  noGcm: 11,
  corruptIn: 12,
  hang: 13,
  killIn: 14,
  killAfterIn: 15,
  ivStrict: 16,
  cap: 17,
  capCode: 18,
  freeSlot: 19,
  infoCode: 20,
  initUs: 21,
  loginUs: 22,
  attributeUs: 23,
  faultPpm: 24,
  faultCode: 25,
  faultCall: 26,
  prints: 27,
  crash: 28,
  initCode: 29,
  loginsMost: 30,
  pinHash: 31,
  calls: 32,
  encrypts: 33,
  decrypts: 34,
  logins: 35,
  initialized: 36,
  finalized: 37,
  sessions: 38,
  sessionsPeak: 39,
  failed: 40,
  overlaps: 41,
  generated: 42,
  destroyed: 43,
  wrongPins: 44,
  listings: 45,
  attributes: 46,
  extractable: 47,
  logouts: 48,
} as const;
const SIZE = 64 * 8;
type Word = keyof typeof WORDS;

/** Kinds of calls, for `faultCall`. */
export const CALL = {
  any: 0,
  open: 1,
  login: 2,
  sessionInfo: 3,
  generate: 4,
  destroy: 5,
  attribute: 6,
  find: 7,
  encryptInit: 8,
  encrypt: 9,
  decryptInit: 10,
  decrypt: 11,
  slotList: 12,
  tokenInfo: 13,
} as const;

export const CKR = {
  ACTION_PROHIBITED: 0x1b,
  ARGUMENTS_BAD: 0x7,
  FUNCTION_FAILED: 0x6,
  DEVICE_MEMORY: 0x31,
  VENDOR: 0x80000001,
  GENERAL_ERROR: 0x5,
  DEVICE_ERROR: 0x30,
  DEVICE_REMOVED: 0x32,
  PIN_INCORRECT: 0xa0,
  PIN_LOCKED: 0xa4,
  SESSION_HANDLE_INVALID: 0xb3,
  TOKEN_NOT_PRESENT: 0xe0,
  CRYPTOKI_NOT_INITIALIZED: 0x190,
} as const;

export interface TestToken {
  label: string;
  /** Everything of it: configuration, control file, the tokens themselves. */
  directory: string;
  /** For SoftHSM itself, `softhsm2-util` and `pkcs11-tool` too. */
  environment: Variables;
  /** The configuration of a process that uses the token, through the shim or directly. */
  variables: Variables;
  /** What `pkcs11-tool` says, logged in. */
  tool(...words: string[]): { code: number | null; output: string };
  shim: Shim;
  /** Another token in the same directory. */
  addToken(label: string): void;
}

export interface Shim {
  set(orders: Partial<Record<Word, number>>): void;
  get(word: Word): number;
  /** No order, and counts from zero. Between two users of the module only. */
  clear(): void;
}

/** What `pinHash` is set to for a PIN that the token is to have from now on. */
export function pinHash(pin: string): number {
  let hash = 2166136261;
  for (const byte of Buffer.from(pin)) hash = Math.imul(hash ^ byte, 16777619) >>> 0;
  return hash;
}

/** Where `scripts/test` has put the shim and the driver. */
export function hsmBuild(name: "shim.so" | "drive"): string {
  const directory = process.env["CERTAUTOPILOT_TEST_HSM"];
  if (directory === undefined) throw new Error("CERTAUTOPILOT_TEST_HSM is not set: run the tests by ./scripts/test");
  return join(directory, name);
}

/** A token of its own, with no key in it. */
export function testToken({ label = "certautopilot", direct = false } = {}): TestToken {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-token-"));
  const configuration = configured(directory);
  const control = join(directory, "control");
  mkdirSync(join(directory, "tokens"));
  writeFileSync(control, Buffer.alloc(SIZE));
  const environment = { SOFTHSM2_CONF: configuration, SHIM_MODULE: SOFTHSM, SHIM_CONTROL: control };
  const env = { PATH: process.env["PATH"] ?? "", ...environment };
  const addToken = (name: string) => {
    const words = ["--init-token", "--free", "--label", name, "--pin", PIN, "--so-pin", SO_PIN];
    execFileSync("softhsm2-util", words, { env, stdio: "pipe" });
  };
  addToken(label);
  return {
    label,
    directory,
    environment,
    variables: {
      ...environment,
      CERTAUTOPILOT_ENCRYPTION_PROVIDER: "pkcs11",
      CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: direct ? SOFTHSM : hsmBuild("shim.so"),
      CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL: label,
      CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN: PIN,
    },
    tool(...words) {
      const common = ["--module", SOFTHSM, "--token-label", label, "--login", "--pin", PIN];
      const ran = spawnSync("pkcs11-tool", [...common, ...words], { env, encoding: "utf8", timeout: 20_000 });
      return { code: ran.status, output: `${ran.stdout}${ran.stderr}` };
    },
    shim: shimOver(control),
    addToken,
  };
}

/** The tokens as they are now, in a directory of their own. @returns it, and the configuration that names them. */
export function copyOf(token: TestToken, name: string): { directory: string; configuration: string } {
  const directory = join(token.directory, name);
  cpSync(join(token.directory, "tokens"), join(directory, "tokens"), { recursive: true });
  return { directory, configuration: configured(directory) };
}

/** @returns SoftHSM's configuration for the tokens in a directory. */
function configured(directory: string): string {
  const file = join(directory, "softhsm2.conf");
  writeFileSync(file, `directories.tokendir = ${join(directory, "tokens")}\nlog.level = ERROR\n`);
  return file;
}

export function shimOver(control: string): Shim {
  const withFile = <T>(work: (descriptor: number) => T): T => {
    const descriptor = openSync(control, "r+");
    try {
      return work(descriptor);
    } finally {
      closeSync(descriptor);
    }
  };
  const word = Buffer.alloc(8);
  return {
    set: (orders) =>
      withFile((descriptor) => {
        for (const [name, value] of Object.entries(orders)) {
          word.writeBigUInt64LE(BigInt(value));
          writeSync(descriptor, word, 0, 8, WORDS[name as Word] * 8);
        }
      }),
    get: (name) =>
      withFile((descriptor) => {
        readSync(descriptor, word, 0, 8, WORDS[name] * 8);
        return Number(word.readBigUInt64LE());
      }),
    clear: () => withFile((descriptor) => writeSync(descriptor, Buffer.alloc(SIZE), 0, SIZE, 0)),
  };
}
