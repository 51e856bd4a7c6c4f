import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Act, Schedule, Timed } from "./schedule.ts";

/**
 * The product with one guard taken out: made from the sources when a test asks for it, in a directory of its own, and never
 * built into a binary. What the campaign finds in it shows that the guard is needed, and that the oracle would notice.
 */
export interface Mutant {
  name: string;
  /** What is taken out, in the words of the protocol. */
  guard: string;
  patches: Patch[];
  /** What brings it out: acts of the campaign's own vocabulary. */
  acts: Timed[];
  /** What the oracle must say. */
  finding: RegExp;
  /** Other times of the fleet. */
  times?: Partial<Record<"beatMs" | "leaseMs" | "evictionMs" | "drainMs", number>>;
  /** More records, where a rotation must still be at work some seconds later. */
  records?: number;
}

interface Patch {
  file: string;
  /** Must be there once. */
  from: string;
  to: string;
}

const ROOT = join(import.meta.dir, "../..");

const at = (atMs: number, act: Act): Timed => ({ atMs, act });
const during = (inPhase: 1 | 2 | 3, atMs: number, act: Act): Timed => ({ atMs, act, inPhase });
/** Two rotations there and back in the time of a schedule, with nothing in their way. */
const ROTATIONS = [at(300, { act: "rotate", to: 2 }), at(5500, { act: "rotate", to: 1, from: 2 })];

export const MUTANTS: Mutant[] = [
  {
    name: "w:1 without journal",
    guard: "every change is acknowledged by a majority and journaled",
    patches: [
      {
        file: "src/store/client_options.ts",
        from: '{ w: "majority", journal: true } as const',
        to: "{ w: 1, journal: false } as const",
      },
    ],
    acts: [
      at(300, { act: "rotate", to: 2 }),
      during(2, 0, { act: "isolate and kill primary", ms: 3400 }),
      during(2, 300, { act: "cancel" }),
    ],
    finding: /is not in the history|was lost|is lost|went back/,
  },
  {
    name: "no fence and no second count",
    guard: "MongoDB rejects envelopes of the version that was left, and the records are counted again behind the fence",
    patches: [
      {
        file: "src/rotation/coordinator.ts",
        from: '        this.#fenced = this.#options.fence === "auto" && (await this.#fence.set(from, to));\n',
        to: "        break;\n",
      },
    ],
    acts: ROTATIONS,
    finding: /when only \d might be|does not open/,
  },
  {
    name: "acknowledgement before apply",
    guard: "a process acknowledges a phase after it has applied it",
    patches: [
      {
        file: "src/fleet/member.ts",
        from: "    let policy = await this.#load(session, state);\n",
        to: `    const early = keyPolicyOf(state.versions, state.rotation);
    if (early !== undefined && this.#heartbeat.acked !== undefined) {
      const { rotation, epoch, phase } = early;
      await this.#heartbeat.acknowledge(session, { rotation, epoch, phase });
      await new Promise((resolve) => setTimeout(resolve, 1200));
    }
    let policy = await this.#load(session, state);
`,
      },
    ],
    acts: ROTATIONS,
    finding: /acknowledged phase \d .* holding/,
    times: { leaseMs: 4000, evictionMs: 8000 },
  },
  {
    name: "no compare-and-set on wrapped_dek",
    guard: "a record is changed only where version and wrap are still those that were read",
    patches: [
      { file: "src/store/rewrap_writes.ts", from: "const GROUP = 64;", to: "const GROUP = 1;" },
      {
        // Of a list of one, whatever was not found is the last.
        file: "src/store/rewrap_statement.ts",
        from: 'elementsOf({ case: { $gte: ["$$at", 0] } })',
        to: 'elementsOf({ case: { $gte: ["$$at", -1] } })',
      },
      { file: "src/store/rewrap_statement.ts", from: "      out.put(fromElement);\n", to: "" },
      {
        file: "src/store/rewrap_statement.ts",
        from: 'document(wrapKey, () => wraps("$in", "oldWrap"));',
        to: 'document("nowhere", () => wraps("$nin", "oldWrap"));',
      },
    ],
    acts: [
      at(300, { act: "rotate", to: 2 }),
      during(2, 0, { act: "slow network", delayMs: 120, ms: 6000 }),
      during(2, 300, { act: "pause coordinators", ms: 700 }),
      during(2, 1500, { act: "pause coordinators", ms: 700 }),
    ],
    finding: /decryption_failed|does not open/,
    times: { leaseMs: 4000, evictionMs: 8000 },
  },
  {
    name: "lease not checked before the write",
    guard: "a coordinator whose lease has run out writes nothing, and every write compares the token",
    patches: [
      {
        file: "src/store/rotations.ts",
        from: `    epoch: held.epoch,
    state: "running" as const,
    "lease.token": held.token,
    "lease.owner": { $ne: null },
    $expr: { $gt: ["$lease.expires_at", "$$NOW"] },
`,
        to: `    state: "running" as const,
`,
      },
      {
        file: "src/rotation/lease_keeper.ts",
        from: `    if (doc?.lease?.token !== token) this.#lost = lost("another coordinator has taken over");
`,
        to: `    if (doc?.lease != null && doc.state === "running") this.#held = { rotation, token: doc.lease.token, epoch: doc.epoch };
    else if (doc?.lease?.token !== token) this.#lost = lost("another coordinator has taken over");
`,
      },
      {
        file: "src/rotation/lease_keeper.ts",
        from: "return this.#renewedAt === undefined || msSince(this.#renewedAt) > this.#leaseMs;",
        to: "return false;",
      },
    ],
    acts: [
      at(300, { act: "rotate", to: 2 }),
      during(2, 300, { act: "pause coordinators", ms: 4500 }),
      during(2, 100, { act: "rotate", to: 2 }),
    ],
    finding: /two coordinators|more than one|went on/,
    // The successor is in the middle of them when the first one wakes.
    records: 400,
  },
  {
    name: "eviction shorter than the lease",
    guard: "a process is evicted only when it has surely fenced itself",
    patches: [
      {
        file: "src/protocol/fleet_times.ts",
        from: "return Math.max(own.evictionMs, member.fleet?.eviction_ms ?? 0);",
        to: "return Math.min(600, own.evictionMs, member.fleet?.eviction_ms ?? 0);",
      },
    ],
    acts: [
      at(300, { act: "rotate", to: 2 }),
      at(600, { act: "pause service", n: 0, ms: 3000 }),
      during(1, 0, { act: "pause service", n: 1, ms: 3000 }),
      during(2, 0, { act: "pause service", n: 2, ms: 3000 }),
    ],
    finding: /evicted while its own lease still ran/,
    times: { leaseMs: 4000, evictionMs: 8000 },
  },
  {
    name: "joining without reading the phase",
    guard: "a process serves after it has read the state, not by what its configuration says",
    patches: [
      {
        file: "src/fleet/member.ts",
        from: "    let policy = await this.#load(session, state);\n",
        to: `    if (performance.now() < 4000 && this.#declared() !== undefined && this.#options.role === "library") {
      await this.#load(session, state);
      const declared = this.#declared() as number;
      await this.#loader.loadAll(keyring, state.versions, state.versions.map((version) => version._id));
      keyring.writeUnder(declared);
      await this.#heartbeat.acknowledge(session, { rotation: null, epoch: 0, phase: 0 });
      return;
    }
    let policy = await this.#load(session, state);
`,
      },
    ],
    acts: [
      at(300, { act: "declare", to: 2 }),
      at(400, { act: "join" }),
      at(500, { act: "join" }),
      at(3500, { act: "rotate", to: 2 }),
    ],
    finding: /when only \d might be|before .* had loaded it/,
  },
  {
    name: "a phase is left without waiting",
    guard: "a phase ends when every member has acknowledged it",
    patches: [
      {
        file: "src/rotation/await_acknowledgements.ts",
        from: "      if (pending.length === 0) return;\n",
        to: "      return;\n",
      },
    ],
    acts: [at(300, { act: "pause service", n: 0, ms: 1400 }), at(400, { act: "rotate", to: 2 })],
    finding: /before .* had (acknowledged|loaded) it/,
  },
];

/** The sources with the guard taken out. @param directory where to make them. */
export function mutatedTree(mutant: Mutant, directory: string): string {
  const tree = join(directory, mutant.name.replace(/\W+/g, "-"));
  mkdirSync(tree);
  cpSync(join(ROOT, "src"), join(tree, "src"), { recursive: true });
  cpSync(join(ROOT, "package.json"), join(tree, "package.json"));
  cpSync(join(ROOT, "tsconfig.json"), join(tree, "tsconfig.json"));
  symlinkSync(join(ROOT, "node_modules"), join(tree, "node_modules"));
  for (const { file, from, to } of mutant.patches) {
    const path = join(tree, file);
    const source = readFileSync(path, "utf8");
    if (source.split(from).length !== 2) throw new Error(`${mutant.name}: ${file} does not hold this once: ${from}`);
    writeFileSync(
      path,
      source.replace(from, () => to),
    );
  }
  return tree;
}

/** A schedule that brings the mutant out; the same for the product itself must find nothing. */
export function provocation({ acts, records = 160 }: Mutant, seed: number): Schedule {
  return { seed, provider: "env", records, services: 3, clockOffS: 0, durationMs: 9000, acts };
}
