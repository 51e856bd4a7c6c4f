import process from "node:process";

/**
 * Runs work while file descriptor 1 is a copy of descriptor 2: some vendors' modules print to stdout when they are loaded or
 * initialised, and stdout holds this program's result. Where the runtime has no calls to libc (Node.js, Deno) it just runs the work.
 * One thread at a time: see `ModuleLock.exclusively`.
 */
export function withoutStdout<T>(work: () => T): T {
  libc ??= openLibc() ?? "none";
  if (libc === "none") return work();
  const saved = libc.dup(STDOUT);
  if (saved < 0) return work();
  libc.dup2(STDERR, STDOUT);
  try {
    return work();
  } finally {
    libc.dup2(saved, STDOUT);
    libc.close(saved);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const STDOUT = 1;
const STDERR = 2;

interface Libc {
  dup(descriptor: number): number;
  dup2(from: number, to: number): number;
  close(descriptor: number): number;
}

interface Ffi {
  dlopen(path: string, symbols: object): { symbols: Libc };
}

let libc: Libc | "none" | undefined;

function openLibc(): Libc | undefined {
  const { getBuiltinModule } = process as { getBuiltinModule?: (name: string) => unknown };
  if (process.versions["bun"] === undefined || process.platform !== "linux") return undefined;
  const ffi = getBuiltinModule?.("bun:ffi") as Ffi | undefined;
  const symbols = {
    dup: { args: ["i32"], returns: "i32" },
    dup2: { args: ["i32", "i32"], returns: "i32" },
    close: { args: ["i32"], returns: "i32" },
  };
  for (const path of ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`]) {
    try {
      return ffi?.dlopen(path, symbols).symbols;
    } catch {
      // The other C library.
    }
  }
  return undefined;
}
