import { CString, dlopen } from "bun:ffi";
import { afterAll, afterEach, beforeEach } from "bun:test";
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Pkcs11Config } from "../../src/config/config.ts";
import { keyCanaryOf, makeCanary } from "../../src/providers/canary.ts";
import type { KeyCanary, Provider } from "../../src/providers/provider.ts";
import { makeProvider, openToken, type ProviderConfig, type Token } from "../../src/providers/registry.ts";
import { scratchDirectory } from "./scratch.ts";
import { hsmBuild, PIN, type Shim, SO_PIN, SOFTHSM, shimOver } from "./token.ts";

/**
 * Tokens for the process that the tests run in. A module reads the environment of its process natively, and the JavaScript
 * one is a copy of it: so libc is asked to set it. Each test file has tokens of its own.
 */

export const INSTALL = "11111111-2222-4333-8444-555555555555";

export interface TokensHere {
  shim: Shim;
  /** Changes the set of tokens for another one: the module sees it when it is initialized next. The first is "first". */
  plug(set: string): void;
  /** Makes a token with no key in it. */
  addToken(label: string): void;
  config(label: string, more?: Pkcs11Config): ProviderConfig;
  /** A probed token, closed after the test. One at a time: closing it finalizes the module for the process. */
  open(label: string, more?: Pkcs11Config): Promise<Token>;
  /** The same, with keys of these versions, made where there are none, loaded and verified by canaries. */
  openWith(label: string, versions: number[], more?: Pkcs11Config): Promise<Token>;
  /** Another instance, as a thread makes it, closed after the test. */
  twin(of: Provider): Promise<Provider>;
  /** What `pkcs11-tool` says, logged in. */
  tool(label: string, ...words: string[]): string;
}

/** To be called at the top level of a test file. */
export function tokensHere(): TokensHere {
  const directory = scratchDirectory();
  const env = { PATH: process.env["PATH"] ?? "", SOFTHSM2_CONF: "" };
  const plug = (set: string) => {
    const [configuration, tokens] = [join(directory, `${set}.conf`), join(directory, set)];
    mkdirSync(tokens, { recursive: true });
    writeFileSync(configuration, `directories.tokendir = ${tokens}\nlog.level = ERROR\n`);
    setNative("SOFTHSM2_CONF", configuration);
    env.SOFTHSM2_CONF = configuration;
  };
  plug("first");
  setNative("SHIM_MODULE", SOFTHSM);
  // A process remembers by module which PINs were refused and which tokens it has met: each file has a module of its own.
  const module = join(directory, "shim.so");
  copyFileSync(hsmBuild("shim.so"), module);
  const shim = shimOver(controlHere());
  const opened: Provider[] = [];
  const closeAll = async () => {
    for (const provider of opened.splice(0)) await provider.close();
  };
  beforeEach(async () => {
    await closeAll();
    plug("first");
    shim.clear();
  });
  afterEach(closeAll);
  afterAll(closeAll);

  const config = (label: string, more: Pkcs11Config = {}): ProviderConfig => ({
    encryption: {
      provider: "pkcs11",
      currentVersion: undefined,
      env: { keks: {} },
      pkcs11: { modulePath: module, tokenLabel: label, pin: PIN, sessions: 4, ...more },
    },
    secretsFile: undefined,
  });
  const open = async (label: string, more?: Pkcs11Config) => {
    const token = await openToken(config(label, more), undefined);
    opened.push(token);
    return token;
  };
  return {
    shim,
    plug,
    config,
    open,
    async twin(of) {
      const [recipe] = structuredClone(await of.recipes(1));
      if (recipe === undefined) throw new Error("no recipe");
      const made = makeProvider(recipe);
      opened.unshift(made);
      return made;
    },
    addToken(label) {
      const words = ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN];
      execFileSync("softhsm2-util", words, { env, stdio: "pipe" });
    },
    async openWith(label, versions, more) {
      const token = await open(label, more);
      for (const version of versions) await load(token, version);
      return token;
    },
    tool(label, ...words) {
      const common = ["--module", SOFTHSM, "--token-label", label, "--login", "--pin", PIN];
      const ran = spawnSync("pkcs11-tool", [...common, ...words], { env, encoding: "utf8", timeout: 20_000 });
      if (ran.status !== 0) throw new Error(`pkcs11-tool: ${ran.stdout}${ran.stderr}`);
      return ran.stdout;
    },
  };
}

/** A key made by this install, and loaded by its proof. */
async function load(token: Token, version: number): Promise<void> {
  await token.make(version, INSTALL);
  await token.load(version);
  await token.load(version, await canaryBy(token, version));
}

/** What the key of a loaded version opens. */
export async function canaryBy(provider: Provider, version: number): Promise<KeyCanary> {
  return keyCanaryOf(await makeCanary(provider, INSTALL, version), INSTALL, provider.name, version);
}

// ---------------------------------------------------------------------------------------------------------------------

const libc = dlopen("libc.so.6", {
  setenv: { args: ["cstring", "cstring", "i32"], returns: "i32" },
  getenv: { args: ["cstring"], returns: "ptr" },
  memfd_create: { args: ["cstring", "u32"], returns: "i32" },
  ftruncate: { args: ["i32", "i64"], returns: "i32" },
}).symbols;

const text = (words: string) => Buffer.from(`${words}\0`);

/** Sets a variable for what reads the environment of this process natively. */
export function setNative(name: string, value: string): void {
  libc.setenv(text(name), text(value), 1);
}

/** The shim maps its control file once a process, whatever file is tested: memory that goes when the process does. */
function controlHere(): string {
  const own = `/proc/${process.pid}/fd/`;
  const at = libc.getenv(text("SHIM_CONTROL"));
  const there = at === null ? "" : new CString(at).toString();
  if (there.startsWith(own)) return there;
  const descriptor = libc.memfd_create(text("shim-control"), 0);
  libc.ftruncate(descriptor, 512);
  setNative("SHIM_CONTROL", `${own}${descriptor}`);
  return `${own}${descriptor}`;
}
