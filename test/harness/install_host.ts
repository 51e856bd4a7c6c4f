import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Ended, HOST_ROOT, type Host, type HostOptions, type RunOptions, startHost } from "./host.ts";
import { unusedPort } from "./mongod_here.ts";

/** A host with the release's program on it, as install.sh leaves it in a directory of its own, and ports that nobody has. */
export interface InstallHost extends Host {
  /** Of this host's MongoDB, and of its service: hosts share this machine's network. */
  mongoPort: number;
  listen: string;
  /** Flags of a local MongoDB on them. */
  local: string[];
  /** `certautopilot` with these words. */
  certautopilot(words: string[], options?: RunOptions): Promise<Ended>;
  /** The same with a secret in a pipe, which is `/dev/fd/3` there. */
  certautopilotWith(secret: string, words: string[]): Promise<Ended>;
  /** What the program answers, from this machine. */
  ready(): Promise<boolean>;
  text(path: string): string;
  /** What `written` tells, less the copies that useradd keeps of what it changes, and what mongod writes by itself. */
  traces(): Map<string, string>;
}

const PROGRAM = "/opt/release/certautopilot";

export async function startInstallHost(
  options: HostOptions,
  program = join(import.meta.dir, "../../dist/certautopilot"),
): Promise<InstallHost> {
  if (HOST_ROOT === undefined) throw new Error("CERTAUTOPILOT_TEST_HOST_ROOT is not set: use ./scripts/test");
  const host = await startHost(options);
  await host.run(["mkdir", "-m", "0700", "/opt/release"], { check: true });
  copyFileSync(program, host.path(PROGRAM));
  await host.run(["chmod", "0755", PROGRAM], { check: true });
  // The user database as useradd leaves it, so that making and removing a user leaves no trace.
  await host.run(["sh", "-c", "useradd --system probe && userdel probe"], { check: true });
  const [mongoPort, port] = [await unusedPort(), await unusedPort()];
  const listen = `127.0.0.1:${port}`;
  const before = host.written();
  return {
    ...host,
    mongoPort,
    listen,
    local: ["--mongo=local", `--mongo-port=${mongoPort}`, `--listen=${listen}`],
    certautopilot: async (words, more) => await host.run([PROGRAM, ...words], { timeoutMs: 150_000, ...more }),
    certautopilotWith: async (secret, words) => {
      const piped = 'cat | { exec "$@" 3<&0 </dev/null; }';
      return await host.run(["sh", "-c", piped, "sh", PROGRAM, ...words], { stdin: secret, timeoutMs: 150_000 });
    },
    async ready() {
      const answer = await fetch(`http://${listen}/readyz`).catch(() => undefined);
      return answer?.status === 200;
    },
    text: (path) => readFileSync(host.path(path), "utf8"),
    traces() {
      const since = [...host.written()].filter(([path, what]) => before.get(path) !== what && !NOISE.test(path));
      // A user database that was written again with the same bytes is the same.
      return new Map(
        since
          .map(([path, what]) => [path, USERS.test(path) ? withoutTime(what) : what] as const)
          .filter(([path, what]) => what !== withoutTime(before.get(path) ?? "")),
      );
    },
  };
}

// ---------------------------------------------------------------------------------------------------------------------

const USERS = /^\/etc\/(passwd|group|shadow|gshadow|subuid|subgid)$/;
const NOISE =
  /^\/etc\/((passwd|group|shadow|gshadow)-|\.pwd\.lock)$|^\/var\/tmp\/systemd-private-|^\/var\/lib\/certautopilot\/mongodb\/./;

const withoutTime = (what: string) => what.replace(/ [\d.]+$/, "");
