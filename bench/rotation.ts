import { memoryOf, type Ran, type Serving, type Stage, serve, succeed, type Variables, variablesOf } from "./stage.ts";

/** One `kek rotate` of a whole database, by the compiled binary. */

export interface Rotated extends Ran {
  /** Seconds from the change to phase 2 until the change to phase 3. */
  rewrapSeconds: number;
  /** The most memory that any process of the fleet has held, in MB; 0 without a fleet. */
  fleetMb: number;
}

export interface Rotating {
  /** How many `serve` processes run beside it. */
  fleet?: number;
  flags?: string[];
  variables?: Variables;
}

/** Where the time to drain is not what is measured. */
export const NO_DRAIN: Variables = { CERTAUTOPILOT_FLEET_DRAIN_MS: "0" };

export async function rotate(
  stage: Stage,
  database: string,
  to: 1 | 2,
  { fleet = 0, flags = [], variables = {} }: Rotating = {},
): Promise<Rotated> {
  const settings = { ...variablesOf(stage, database, to), ...variables };
  const members: Serving[] = [];
  try {
    for (let member = 0; member < fleet; member += 1) members.push(await serve(settings));
    const ran = await succeed(
      [
        "kek",
        "rotate",
        `--to-version=${to}`,
        `--from-version=${3 - to}`,
        "--no-backup-check",
        "--yes",
        "--json",
        ...flags,
      ],
      settings,
    );
    const fleetMb = Math.max(0, ...members.map(({ pid }) => memoryOf(pid)));
    return { ...ran, fleetMb, rewrapSeconds: await rewrapSeconds(stage, database) };
  } finally {
    await Promise.all(members.map((member) => member.stop()));
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function rewrapSeconds(stage: Stage, database: string): Promise<number> {
  const newest = { sort: { _id: -1 } } as const;
  const last = await stage.client.db(database).collection("kek_rotations").findOne({}, newest);
  const times = last?.["phase_times"];
  return (times["3"].getTime() - times["2"].getTime()) / 1000;
}
