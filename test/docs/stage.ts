import { execFile, execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Host, startHost } from "../harness/host.ts";
import { Releases } from "./release.ts";

/** The hosts that the pages speak of: Debian 12 with systemd, on a network of their own, so that ports are those of the pages. */

/** Hosts that see each other. */
const ADDRESSES: Record<string, string> = { "app-1": "10.9.0.1", "app-2": "10.9.0.2" };

export class Stage {
  readonly #hosts = new Map<string, Promise<Host>>();
  readonly releases = new Releases();

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
    const act = [process.execPath, join(import.meta.dir, "inside.ts"), ...words];
    await promisify(execFile)("nsenter", [`--net=${network}`, ...act], { timeout: 30_000 });
  }

  async close(): Promise<void> {
    for (const started of await Promise.allSettled(this.#hosts.values()))
      if (started.status === "fulfilled") await started.value.stop();
    rmSync(this.releases.directory, { recursive: true, force: true });
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
