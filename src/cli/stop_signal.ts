import process from "node:process";
import type { Log } from "../errors/log.ts";

/** Runs something that Ctrl-C stops after what is in hand; Ctrl-C again leaves at once. */
export async function untilInterrupted<T>(log: Log, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const listener = (signal: NodeJS.Signals) => {
    if (stop.signal.aborted) {
      disarm();
      process.kill(process.pid, signal);
      return;
    }
    log.info("stopping after the batch in hand (Ctrl-C again leaves at once)");
    stop.abort();
  };
  const disarm = () => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, listener);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, listener);
  try {
    return await work(stop.signal);
  } finally {
    disarm();
  }
}
