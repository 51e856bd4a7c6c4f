import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  cpSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Release files as `./scripts/release` makes them, of this machine's kind only, and of a later version too. */

const ROOT = join(import.meta.dir, "../..");
const NAME = "certautopilot-linux-x64";

export class Releases {
  readonly directory = mkdtempSync(join(tmpdir(), "certautopilot-docs-"));
  readonly #built = new Map<string, Promise<string>>();

  /** @returns `<directory>/v<version>`, with the program, SHA256SUMS and install.sh. */
  async of(version: string): Promise<string> {
    const known = this.#built.get(version) ?? this.#build(version);
    this.#built.set(version, known);
    return await known;
  }

  /** Lays one down below `/root/release` of a host, whose root is seen at `root`. */
  async lay(version: string, root: string): Promise<void> {
    const from = await this.of(version);
    const to = join(root, `root/release/v${version}`);
    rmSync(to, { recursive: true, force: true });
    mkdirSync(to, { recursive: true });
    for (const name of [NAME, "SHA256SUMS", "install.sh"]) copyFileSync(join(from, name), join(to, name));
    // What a processor without AVX2 is given.
    linkSync(join(to, NAME), join(to, `${NAME}-baseline`));
  }

  /** From a tree of its own, whose manifest says the version. */
  async #build(version: string): Promise<string> {
    const tree = join(this.directory, `tree-${version}`);
    const out = join(this.directory, `v${version}`);
    for (const directory of [tree, out]) mkdirSync(directory);
    for (const name of ["src", "tsconfig.json"]) cpSync(join(ROOT, name), join(tree, name), { recursive: true });
    const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
    writeFileSync(join(tree, "package.json"), JSON.stringify({ ...manifest, version }));
    symlinkSync(join(ROOT, "node_modules"), join(tree, "node_modules"));
    const define = `CERTAUTOPILOT_TARGET='"linux-x64"'`;
    const script = `source "$1/scripts/common.sh"; compile "$2" "$3" --define ${define}`;
    await succeeds("bash", ["-c", script, "bash", ROOT, tree, join(out, NAME)]);
    const digest = createHash("sha256")
      .update(readFileSync(join(out, NAME)))
      .digest("hex");
    writeFileSync(join(out, "SHA256SUMS"), `${digest}  ${NAME}\n${digest}  ${NAME}-baseline\n`);
    copyFileSync(join(ROOT, "install.sh"), join(out, "install.sh"));
    return out;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function succeeds(command: string, words: string[]): Promise<void> {
  // What a test runs under is built into a program otherwise.
  const { NODE_ENV: _, ...env } = process.env;
  const child = spawn(command, words, { env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${said}`);
}
