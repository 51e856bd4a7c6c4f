import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { scratchDirectory } from "./scratch.ts";
import { PIN, SO_PIN } from "./token.ts";
import { setNative } from "./tokens_here.ts";

/** Kryoptic's module; undefined where it was not built. `./scripts/test --long` builds it. */
export const KRYOPTIC = process.env["CERTAUTOPILOT_TEST_KRYOPTIC"];

/** To be called at the top level of a test file. @returns what makes a token with no key in it, for the process that the tests run in. */
export function kryopticHere(): (module: string, label: string) => void {
  const directory = scratchDirectory();
  return (module, label) => makeToken(directory, module, label);
}

// ---------------------------------------------------------------------------------------------------------------------

function makeToken(directory: string, module: string, label: string): void {
  const configuration = join(directory, "token.conf");
  const slot = ["[[slots]]", "slot = 1", 'dbtype = "sqlite"', `dbargs = "${join(directory, "token.sql")}"`];
  writeFileSync(configuration, `${slot.join("\n")}\n`);
  setNative("KRYOPTIC_CONF", configuration);
  const env = { PATH: process.env["PATH"] ?? "", KRYOPTIC_CONF: configuration };
  for (const words of [
    ["--init-token", "--label", label, "--so-pin", SO_PIN],
    ["--init-pin", "--login", "--login-type", "so", "--so-pin", SO_PIN, "--pin", PIN],
  ]) {
    const ran = spawnSync("pkcs11-tool", ["--module", module, ...words], { env, encoding: "utf8", timeout: 20_000 });
    if (ran.status !== 0) throw new Error(`pkcs11-tool ${words[0]}: ${ran.stdout}${ran.stderr}`);
  }
}
