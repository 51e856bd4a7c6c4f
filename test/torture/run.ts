import { perform } from "./acts.ts";
import { type Outcome, outcomeOf } from "./aftermath.ts";
import { ALL_WELL_MS, type Conditions, Scene } from "./scene.ts";
import { inWords, type Schedule } from "./schedule.ts";

/** One schedule, from an empty database to the oracle's health. */
export async function runSchedule(schedule: Schedule, conditions: Conditions): Promise<Outcome> {
  const scene = new Scene(schedule, conditions);
  try {
    await scene.prepare();
    await torture(scene);
    return await outcomeOf(scene);
  } finally {
    await scene.cleanUp();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function torture(scene: Scene): Promise<void> {
  scene.begin();
  const following = setInterval(() => followHints(scene), 1000);
  try {
    await storm(scene);
  } finally {
    clearInterval(following);
  }
  scene.tell("all is well again");
  scene.tokenVolume?.free();
  await scene.set.heal();
  await scene.accidents.putRight(ALL_WELL_MS);
}

/** An operator whose rotation waits for an index does what it says. */
function followHints(scene: Scene): void {
  const waits = scene.fleet
    .living(scene.fleet.coordinators)
    .some((part) => /^waiting: the index/.test(part.stderr().trimEnd().split("\n").at(-1) ?? ""));
  if (waits) scene.accidents.indexesRight().catch((thrown) => scene.tell(`could not: indexes right: ${thrown}`));
}

async function storm(scene: Scene): Promise<void> {
  for (const { atMs, act, inPhase } of scene.schedule.acts) {
    if (inPhase === undefined) await Bun.sleep(Math.max(0, atMs - scene.spentMs));
    else await reached(scene, inPhase).then(() => Bun.sleep(atMs));
    scene.tell(inWords(act));
    scene.under.push(perform(scene, act).catch((thrown) => scene.tell(`could not: ${inWords(act)}: ${thrown}`)));
  }
  await Bun.sleep(Math.max(0, scene.schedule.durationMs - scene.spentMs));
  await Promise.all(scene.under);
}

/** Waits for a rotation to be in a phase; not for ever, for it may never come to it. */
async function reached(scene: Scene, phase: number): Promise<void> {
  const until = performance.now() + 20_000;
  const rotations = scene.db.collection("kek_rotations");
  while (performance.now() < until) {
    if ((await rotations.findOne({ open: true, phase }).catch(() => null)) !== null) return;
    await Bun.sleep(20);
  }
}
