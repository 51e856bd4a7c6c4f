import process from "node:process";

declare global {
  interface ImportMeta {
    /**
     * Whether crash points are compiled in. `scripts/build --crash` defines it as true, every other build as false, and the bundler then
     * removes what it guards. It is undefined where the sources run without a build.
     */
    readonly crashPoints?: boolean;
  }
}

/**
 * Named moments between two writes, at which a test kills the process: what is left is what a power cut would leave. Every call is
 * guarded by `import.meta.crashPoints`, so that a release contains none. In the build for tests nothing is armed unless the
 * environment says so (`crashPointAsked`).
 */
export const CRASH_POINTS = [
  // A fresh database
  "collections.ensured",
  "lock.inserted",
  "lock.written",
  "version.inserted",
  "stage.done",
  "first.activating",
  "first.activated",
  // A key made in a token, and destroyed there
  "claim.taken",
  "key.generated",
  "key.made",
  "canary.made",
  "claim.dropped",
  "key.destroyed",
  // A rotation, in its order
  "rotation.inserted",
  "rotation.acquired",
  "lease.taken_over",
  "lease.renewed",
  "member.evicted",
  "phase.written",
  "phase.advanced",
  "wraps.reserved",
  "batch.wrapped",
  "batch.written",
  "progress.saved",
  "fence.recording",
  "fence.recorded",
  "fence.validator_set",
  "count.again",
  "complete.closed",
  "complete.retired",
  "complete.done",
  "lease.released",
  // The ways back
  "cancel.written",
  "cancel.reopened",
  "cancel.done",
  "reverse.closed",
  // A version removed, and its line in the secrets file
  "field.prepared",
  "field.unindexed",
  "remove.searched",
  "remove.unreachable",
  "remove.marking",
  "remove.marked",
  "copy.created",
  "copy.written",
  "copy.named",
  "secrets.created",
  "secrets.written",
  "secrets.renamed",
  "forget.deleted",
  "forget.done",
  // An install: its own MongoDB, and after each step
  "admin.made",
  "install.step",
  // Secrets carried to another install
  "export.told",
  "export.sealed",
  "export.exported",
  "export.named",
  "import.registered",
  "import.begun",
  "import.inserted",
  "import.verified",
  "import.completed",
  // Every audited change
  "audit.appended",
  "audit.committed",
  "audit.mirrored",
] as const;

export type CrashPoint = (typeof CRASH_POINTS)[number];

/** Dies here, at once and with every thread, when this point is the armed one and has been passed often enough. */
export function crashPoint(name: CrashPoint): void {
  if (armed === name) passed();
}

/**
 * Arms one point in this thread; each thread arms its own, and counts for itself.
 * @param asked a point's name, or `name:2` for the second time that it is passed; undefined arms nothing.
 * @returns what is armed, or undefined. @throws Error when there is no such point.
 */
export function armCrashPoint(asked: string | undefined): CrashPoint | undefined {
  if (asked === undefined) return undefined;
  const [name, times = "1"] = asked.split(":");
  const point = CRASH_POINTS.find((each) => each === name);
  if (point === undefined || !/^[1-9]\d{0,3}$/.test(times)) throw new Error(`${asked} is no crash point`);
  armed = point;
  left = Number(times);
  return point;
}

// ---------------------------------------------------------------------------------------------------------------------

let armed: CrashPoint | undefined;
let left = 0;

function passed(): void {
  left -= 1;
  if (left > 0) return;
  process.kill(process.pid, "SIGKILL");
  // Should the signal take a moment, this thread does nothing in it.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}
