import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** Processes of this host, by proc(5). */
export interface Process {
  pid: number;
  /** As people know it. */
  name: string;
  /** The program that it runs; empty where the kernel does not say. */
  program: string;
  arguments: string[];
}

/**
 * Those of a user, but for containers, whose users have numbers of their own.
 * @param units whose processes are left out: systemd ends them.
 */
export function processesOf(uid: number, units: string[]): Process[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => processOf(pid, uid, units));
}

// ---------------------------------------------------------------------------------------------------------------------

function processOf(pid: string, uid: number, units: string[]): Process[] {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    if (Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]) !== uid) return [];
    const group = readFileSync(`/proc/${pid}/cgroup`, "utf8");
    if (readlinkSync(`/proc/${pid}/ns/pid`) !== readlinkSync("/proc/self/ns/pid")) return [];
    if (units.some((unit) => group.includes(`/${unit}`))) return [];
    return [
      {
        pid: Number(pid),
        name: readFileSync(`/proc/${pid}/comm`, "utf8").trim(),
        program: readlinkSync(`/proc/${pid}/exe`),
        arguments: readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").filter(Boolean),
      },
    ];
  } catch (thrown) {
    // It has ended since it was listed.
    if (["ENOENT", "ESRCH"].includes((thrown as NodeJS.ErrnoException).code ?? "")) return [];
    throw thrown;
  }
}
