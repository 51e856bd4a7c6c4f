import { Random } from "./random.ts";

/** What happens when, in one schedule: decided by the seed alone, before anything runs. Pure. */

export type ProviderName = "env" | "pkcs11";

/** Who is hit: `n` is taken modulo how many there are when it happens. */
export type Act =
  | { act: "rotate"; to: number; from?: number }
  | { act: "declare"; to: number }
  | { act: "cancel" }
  | { act: "kill coordinators" }
  | { act: "pause coordinators"; ms: number }
  | { act: "kill service"; n: number }
  | { act: "pause service"; n: number; ms: number }
  | { act: "join" }
  | { act: "leave"; n: number }
  | { act: "kill serve"; n: number }
  | { act: "pause serve"; n: number; ms: number }
  | { act: "kill primary"; ms: number }
  | { act: "step down" }
  | { act: "lose secondary"; ms: number }
  | { act: "empty secondary" }
  | { act: "isolate and kill primary"; ms: number }
  | { act: "slow network"; delayMs: number; ms: number }
  | { act: "cut off"; n: number; ms: number }
  | { act: "fill disk"; ms: number }
  | { act: "fill token's disk"; ms: number }
  /** What people do to the database beside the product, and an operator who wants to be rid of an old key. */
  | { act: "rename away"; ms: number }
  | { act: "hide index" }
  | { act: "drop index" }
  | { act: "odd index"; kind: OddIndex }
  | { act: "empty kek_fields" }
  | { act: "unregister" }
  | { act: "put back"; share: number }
  | { act: "repair" }
  | { act: "remove"; version: number };

/** Indexes that an application may make on the path of the version. */
export const ODD_INDEXES = ["partial", "sparse", "descending", "same key"] as const;
export type OddIndex = (typeof ODD_INDEXES)[number];

export interface Timed {
  /** From the beginning; or, with `inPhase`, after that phase of a rotation was seen. */
  atMs: number;
  act: Act;
  inPhase?: 1 | 2 | 3;
}

export interface Schedule {
  seed: number;
  provider: ProviderName;
  records: number;
  services: number;
  /** How far the first service's wall clock is off, in seconds. */
  clockOffS: number;
  durationMs: number;
  acts: Timed[];
}

/** Times of the fleet under torture, in milliseconds: short, so that a pause outlasts them. */
export const TIMES = { beatMs: 200, leaseMs: 1500, evictionMs: 3000, drainMs: 300 };

const DURATION_MS = 9000;

export function makeSchedule(seed: number, provider?: ProviderName): Schedule {
  const random = new Random(seed);
  const chosen = provider ?? (random.chance(0.3) ? "pkcs11" : "env");
  const acts = [...operatorActs(random), ...faults(random, chosen), ...accidents(random)].sort(
    (a, b) => a.atMs - b.atMs,
  );
  return {
    seed,
    provider: chosen,
    records: random.between(80, 240),
    services: random.between(2, 3),
    clockOffS: random.weigh([
      [0, 2],
      [3600, 1],
      [-3600, 1],
    ] as const),
    durationMs: DURATION_MS,
    acts,
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** An operator, and cron, and a second operator who does not know of the first. */
function operatorActs(random: Random): Timed[] {
  const acts: Timed[] = [{ atMs: random.between(300, 1200), act: { act: "rotate", to: 2 } }];
  let [from, to] = [1, 2];
  for (let atMs = 1500; atMs < DURATION_MS; atMs += random.between(300, 1800)) {
    const kind = random.weigh([
      ["again", 6],
      ["reverse", 3],
      ["onward", 2],
      ["cancel", 3],
      ["kill", 3],
      ["pause", 4],
    ] as const);
    if (kind === "reverse") [from, to] = [to, from];
    if (kind === "onward") [from, to] = [to, (to % 3) + 1];
    if (kind === "again" || kind === "onward") acts.push({ atMs, act: { act: "rotate", to } });
    if (kind === "reverse") acts.push({ atMs, act: { act: "rotate", to, from } });
    if (kind === "cancel") acts.push({ atMs, act: { act: "cancel" } });
    if (kind === "kill") acts.push({ atMs, act: { act: "kill coordinators" } });
    if (kind === "pause") acts.push({ atMs, act: { act: "pause coordinators", ms: pauseMs(random) } });
  }
  return acts;
}

function faults(random: Random, provider: ProviderName): Timed[] {
  const n = () => random.between(0, 9);
  return Array.from({ length: random.between(3, 8) }, () => {
    const make = random.weigh<() => Act>([
      [() => ({ act: "kill service", n: n() }), 4],
      [() => ({ act: "pause service", n: n(), ms: pauseMs(random) }), 6],
      [() => ({ act: "join" }), 3],
      [() => ({ act: "leave", n: n() }), 2],
      [() => ({ act: "kill serve", n: n() }), 2],
      [() => ({ act: "pause serve", n: n(), ms: pauseMs(random) }), 3],
      [() => ({ act: "kill primary", ms: random.between(500, 3000) }), 3],
      [() => ({ act: "step down" }), 2],
      [() => ({ act: "lose secondary", ms: random.between(500, 4000) }), 2],
      [() => ({ act: "empty secondary" }), 1],
      [() => ({ act: "isolate and kill primary", ms: random.between(600, 1400) }), 2],
      [() => ({ act: "slow network", delayMs: random.between(5, 120), ms: random.between(500, 3000) }), 3],
      [() => ({ act: "cut off", n: n(), ms: random.between(300, 3000) }), 2],
      [() => ({ act: "fill disk", ms: random.between(500, 2000) }), 1],
      [
        () => (provider === "pkcs11" ? { act: "fill token's disk", ms: random.between(500, 3000) } : { act: "join" }),
        2,
      ],
    ]);
    return { atMs: random.between(200, DURATION_MS - 500), act: make() };
  });
}

/** None in half of the schedules, so that the others are as they were. */
function accidents(random: Random): Timed[] {
  if (random.chance(0.5)) return [];
  const acts = Array.from({ length: random.between(1, 4) }, (): Timed => {
    const make = random.weigh<() => Act>([
      [() => ({ act: "rename away", ms: random.between(200, 4000) }), 3],
      [() => ({ act: "hide index" }), 2],
      [() => ({ act: "drop index" }), 2],
      [() => ({ act: "odd index", kind: random.pick(ODD_INDEXES) }), 3],
      [() => ({ act: "empty kek_fields" }), 2],
      [() => ({ act: "unregister" }), 2],
      [() => ({ act: "put back", share: random.pick([0.05, 0.5]) }), 3],
      [() => ({ act: "repair" }), 3],
    ]);
    return { atMs: random.between(500, DURATION_MS - 500), act: make() };
  });
  // A number is never used again: at most one of three is gone at the end.
  if (random.chance(0.6))
    acts.push({ atMs: random.between(4000, DURATION_MS - 300), act: { act: "remove", version: random.between(1, 2) } });
  return acts;
}

/** From a hiccup to well past lease and eviction. */
function pauseMs(random: Random): number {
  return random.chance(0.5)
    ? random.between(100, TIMES.leaseMs)
    : random.between(TIMES.leaseMs, TIMES.evictionMs + 2000);
}

export function inWords({ act, ...more }: Act): string {
  const details = Object.entries(more).map(([name, value]) => `${name}=${value}`);
  return [act, ...details].join(" ");
}
