import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { Host } from "./host.ts";

/** Looks, over and over, at the arguments and the environment of every process of a host, as `ps` and root do. */
export interface ProcessWatch {
  /** Arguments of every process that was seen, joined by blanks. */
  arguments: Set<string>;
  environments: Set<string>;
  stop(): Promise<void>;
}

export function watchProcesses(host: Host): ProcessWatch {
  const [, , leader = ""] = host.path("/").split("/");
  const namespace = readlinkSync(`/proc/${leader}/ns/pid`);
  const watch = { arguments: new Set<string>(), environments: new Set<string>() };
  let watching = true;
  const look = () => {
    for (const pid of readdirSync("/proc")) {
      if (!/^\d+$/.test(pid)) continue;
      try {
        if (readlinkSync(`/proc/${pid}/ns/pid`) !== namespace) continue;
        watch.arguments.add(readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim());
        watch.environments.add(readFileSync(`/proc/${pid}/environ`, "utf8"));
      } catch (thrown) {
        // It ended meanwhile, or is none that root here may look at, and so none of the host's.
        if (!/ENOENT|ESRCH|EACCES/.test(String(thrown))) throw thrown;
      }
    }
  };
  const ended = (async () => {
    while (watching) {
      look();
      await Bun.sleep(3);
    }
  })();
  return {
    ...watch,
    async stop() {
      watching = false;
      await ended;
    },
  };
}

/** How nice each thread of a process is, as proc(5) has it; its main thread first. */
export function nicesOf(pid: number): number[] {
  const threads = readdirSync(`/proc/${pid}/task`).map(Number);
  return threads
    .sort((a, b) => a - b)
    .flatMap((thread) => {
      try {
        const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8");
        // Behind the name, which may hold blanks, comes the state, the third field; nice is the nineteenth.
        return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[16]);
      } catch (thrown) {
        // The thread ended meanwhile.
        if (!/ENOENT|ESRCH/.test(String(thrown))) throw thrown;
        return [];
      }
    });
}
