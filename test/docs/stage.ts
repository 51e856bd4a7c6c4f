import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Host, startHost } from "../harness/host.ts";
import { BINARY } from "../harness/program.ts";

/** The hosts that the pages speak of: Debian 12 with systemd, on a network of their own, so that ports are those of the pages. */

const ROOT = join(import.meta.dir, "../..");
/** Hosts that see each other. */
const ADDRESSES: Record<string, string> = { "app-1": "10.9.0.1", "app-2": "10.9.0.2" };

export class Stage {
  readonly #hosts = new Map<string, Promise<Host>>();
  /** What a scene has left running, to be waited for. */
  readonly #open: Promise<unknown>[] = [];

  /** Started when a page first speaks of it. */
  async host(name: string): Promise<Host> {
    const known = this.#hosts.get(name) ?? this.#start(name);
    this.#hosts.set(name, known);
    return await known;
  }

  async sh(name: string, script: string, check = true): Promise<string> {
    const host = await this.host(name);
    const { stdout, stderr } = await host.run(["bash", "-ec", script], { check });
    return stdout + stderr;
  }

  /** Does something to the MongoDB in a host's network. */
  async inside(name: string, ...words: string[]): Promise<void> {
    const { network } = await this.host(name);
    execFileSync("nsenter", [`--net=${network}`, process.execPath, join(import.meta.dir, "inside.ts"), ...words], {
      stdio: "pipe",
      timeout: 30_000,
    });
  }

  /** Goes on while the page does. */
  leave(work: Promise<unknown>): void {
    this.#open.push(work);
  }

  async close(): Promise<void> {
    for (const started of this.#hosts.values())
      await started.then(
        (host) => host.stop(),
        () => undefined,
      );
    await Promise.allSettled(this.#open);
  }

  async #start(name: string): Promise<Host> {
    const host = await startHost({ boot: true, network: "own" });
    const names = Object.entries(ADDRESSES).map(([known, address]) => `${address} ${known}`);
    const db1 = ADDRESSES[name] === undefined ? "127.0.0.1" : ADDRESSES["app-1"];
    writeFileSync(host.path("/etc/hosts"), `127.0.0.1 localhost ${name}\n${names.join("\n")}\n${db1} db1\n`);
    writeFileSync(host.path("/etc/hostname"), `${name}\n`);
    await host.run(["hostname", name], { check: true });
    if (name === "app-2") await connect(await this.host("app-1"), host);
    return host;
  }
}

/** A directory of release files, as `./scripts/release` makes it, of the one binary that the tests have built. */
export function releaseFiles(host: Host, version: string): void {
  const directory = host.path(`/root/release/v${version}`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const binary = join(directory, "certautopilot-linux-x64");
  copyFileSync(BINARY, binary);
  const digest = createHash("sha256").update(readFileSync(binary)).digest("hex");
  writeFileSync(join(directory, "SHA256SUMS"), `${digest}  certautopilot-linux-x64\n`);
  copyFileSync(join(ROOT, "install.sh"), join(directory, "install.sh"));
}

// ---------------------------------------------------------------------------------------------------------------------

/** A cable between two hosts. */
async function connect(one: Host, other: Host): Promise<void> {
  const [a, b] = [one, other].map(({ network }) => /\d+/.exec(network)?.[0] as string) as [string, string];
  const ip = (...words: string[]) => execFileSync("ip", words, { stdio: "pipe" });
  ip("link", "add", "dev", `ca${a}`, "netns", a, "type", "veth", "peer", "name", `ca${b}`, "netns", b);
  for (const [at, name] of [
    [a, "app-1"],
    [b, "app-2"],
  ] as const) {
    const into = (...words: string[]) =>
      execFileSync("nsenter", [`--net=/proc/${at}/ns/net`, "ip", ...words], { stdio: "pipe" });
    into("addr", "add", `${ADDRESSES[name]}/24`, "dev", `ca${at}`);
    into("link", "set", `ca${at}`, "up");
  }
}
