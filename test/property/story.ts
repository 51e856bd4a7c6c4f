import { Random } from "../torture/random.ts";

/** What one case of the property test is: a database and what is done to it, decided by the seed alone. Pure. */

export type CollectionKind = "plain" | "collation" | "capped" | "validator" | "moderate" | "warn" | "time series";
export type IdKind = "int" | "text" | "object id" | "double" | "long" | "document" | "uuid" | "date";
/** How `kek_version` is stored. All of these are equal to MongoDB. */
export type NumberKind = "int32" | "int64" | "double" | "decimal";

/** Indexes that an application may have on the path of the version, beside or instead of the product's own. */
export const INDEX_KINDS = [
  "partial by a flag",
  "partial by the version",
  "sparse",
  "collation",
  "unique",
  "descending",
  "other order",
  "prefix only",
  "hashed",
  "wildcard",
  "same key, other name",
  "same key, other name, hidden",
  "own name, other key",
  "own name, partial",
  "own name, sparse",
  "own name, collation",
] as const;
export type IndexKind = (typeof INDEX_KINDS)[number];

export interface FieldPlan {
  path: string;
  registered: boolean;
  /** What is done with the product's own index. */
  own: "there" | "hidden" | "missing";
  odd: IndexKind[];
  /** Some values are an array of envelopes: the index becomes multikey. */
  arrays: boolean;
}

export interface CollectionPlan {
  name: string;
  kind: CollectionKind;
  ids: IdKind;
  /** Records with an envelope in each field. */
  records: number;
  /** Documents with something else, or nothing, in the fields. */
  others: number;
  numbers: NumberKind[];
  fields: FieldPlan[];
}

export const COPIES = ["field", "array", "array in an array", "subdocument", "deep"] as const;
export type CopyTo = (typeof COPIES)[number];

/** `collection` and `field` are taken modulo how many there are. */
export type Act =
  /** @param to the new name begins with it. */
  | { act: "rename"; collection: number; to: "renamed" | "kek_users" | "audit_log_of" }
  | { act: "rename back"; collection: number }
  | { act: "drop"; collection: number }
  | { act: "empty kek_fields"; drop: boolean }
  | { act: "copy kek_fields" }
  | { act: "restore kek_fields" }
  | { act: "unregister"; field: number }
  | { act: "register"; field: number }
  | { act: "hide index"; field: number }
  | { act: "drop index"; field: number }
  | { act: "odd index"; field: number; kind: IndexKind }
  | { act: "move records"; collection: number; to: number; share: number }
  | { act: "copy envelope"; collection: number; to: CopyTo }
  | { act: "annotate envelope"; collection: number }
  | { act: "insert late"; field: number; version: number; elsewhere: boolean };

export type Step =
  | { do: "act"; act: Act }
  /** @param crashAt the program kills itself there. @param live done while the command is in phase 2. */
  | { do: "command"; words: string[]; crashAt?: string; live?: Act[] }
  /** The operator runs `kek field remove`, where the program has it. */
  | { do: "field command"; verb: "add" | "remove"; field: number };

export interface Story {
  /** The seed, or the name of a directed case. */
  name: string;
  /** Decides what is in the records. */
  seed: number;
  collections: CollectionPlan[];
  view: "none" | "there" | "registered";
  /** A `serve` process runs, and declares these fields. */
  serve: { fields: number[] } | undefined;
  steps: Step[];
}

export function makeStory(seed: number): Story {
  const random = new Random(seed);
  const collections = Array.from({ length: random.weigh(COLLECTION_COUNTS) }, (_, at) => collection(random, at));
  const fields = collections.flatMap((plan) => plan.fields);
  return {
    name: `seed ${seed}`,
    seed,
    collections,
    view: random.weigh([
      ["none", 16],
      ["there", 3],
      ["registered", 1],
    ] as const),
    serve: random.chance(0.07)
      ? { fields: fields.flatMap((field, at) => (field.registered && random.chance(0.7) ? [at] : [])) }
      : undefined,
    steps: steps(random),
  };
}

// ---------------------------------------------------------------------------------------------------------------------

const COLLECTION_COUNTS = [
  [1, 6],
  [2, 5],
  [3, 3],
  [4, 1],
  [6, 1],
] as const;
const NAMES = ["users", "app.accounts", "orders 2024", "Straße", "a", "tokens_v2"] as const;
const PATHS = ["secret", "profile.ssn", "a.b.c", "émail", "value", "keys.primary.key"] as const;

function collection(random: Random, at: number): CollectionPlan {
  const kind = random.weigh([
    ["plain", 20],
    ["collation", 3],
    ["capped", 1],
    ["validator", 3],
    ["moderate", 1],
    ["warn", 2],
    ["time series", 1],
  ] as const);
  const paths = [...PATHS].sort(() => random.next() - 0.5).slice(0, random.chance(0.7) ? 1 : 2);
  return {
    name: NAMES[at] as string,
    kind,
    ids: random.weigh([
      ["int", 8],
      ["text", 3],
      ["object id", 4],
      ["double", 1],
      ["long", 1],
      ["document", 1],
      ["uuid", 1],
      ["date", 1],
    ] as const),
    records: random.weigh<() => number>([
      [() => 0, 1],
      [() => random.between(1, 40), 12],
      [() => random.between(100, 250), 1],
    ])(),
    others: random.between(0, 5),
    numbers: random.chance(0.12)
      ? [
          "int32",
          random.weigh([
            ["int64", 1],
            ["double", 1],
            ["decimal", 1],
          ] as const),
        ]
      : ["int32"],
    // A measurement of a time series cannot be changed: its envelopes are registered rarely.
    fields: paths.map((path) => field(random, path, kind === "time series" ? 0.2 : 0.93)),
  };
}

function field(random: Random, path: string, registered: number): FieldPlan {
  // What the planner takes when it is asked for the key of the product's index, and that one is not to be had.
  if (random.chance(0.1)) {
    const odd = random.pick(["partial by a flag", "partial by the version", "sparse", "collation"] as const);
    const own = random.weigh([
      ["hidden", 3],
      ["missing", 1],
    ] as const);
    return { path, registered: true, own, odd: [odd], arrays: false };
  }
  const odd = Array.from(
    {
      length: random.weigh([
        [0, 12],
        [1, 6],
        [2, 1],
      ] as const),
    },
    () => random.pick(INDEX_KINDS),
  );
  return {
    path,
    registered: random.chance(registered),
    own: random.weigh([
      ["there", 8],
      ["hidden", 2],
      ["missing", 3],
    ] as const),
    odd,
    arrays: random.chance(0.03),
  };
}

/** Between two writes of `kek rotate`, outside of a transaction: one that is left open would hold up all others. */
const ROTATE_POINTS = [
  "rotation.acquired",
  "phase.advanced:1",
  "phase.advanced:2",
  "wraps.reserved",
  "batch.wrapped",
  "batch.written",
  "batch.written:2",
  "batch.written:4",
  "fence.recorded",
  "fence.validator_set",
  "count.again",
  "complete.done",
] as const;
const REMOVE_POINTS = ["remove.unreachable", "remove.marked"] as const;

function steps(random: Random): Step[] {
  const made: Step[] = acts(random, [3, 4, 2]);
  const [to, from] = random.chance(0.9) ? [2, 1] : [3, 1];
  rotation(random, made, to, from);
  const more = random.weigh([
    ["remove", 6],
    ["rotate again, remove", 2],
    ["back", 1],
    ["nothing", 1],
  ] as const);
  if (more === "nothing") return made;
  made.push(...acts(random, [4, 4, 2]));
  if (more === "back") {
    rotation(random, made, from, to);
    made.push(...acts(random, [5, 3, 0]), ...removal(random, to));
    return made;
  }
  if (more === "rotate again, remove") made.push(rotate(random, to));
  made.push(...removal(random, from));
  if (random.chance(0.2)) made.push(...acts(random, [1, 3, 1]), rotate(random, to), ...removal(random, from));
  return made;
}

/** One rotation, in one command or in several. */
function rotation(random: Random, made: Step[], to: number, from: number): void {
  // A reverse rotation must be meant.
  const named = to < from ? [`--from-version=${from}`] : [];
  const how = random.weigh([
    ["whole", 6],
    ["killed", 6],
    ["cancelled", 3],
    ["live", 2],
  ] as const);
  if (how === "live") {
    const slow = ["--max-rate=60", "--batch-size=5"];
    made.push({ ...rotate(random, to, [...named, ...slow]), live: [act(random), act(random)].slice(0, 2) });
  }
  if (how === "killed" || how === "cancelled") {
    const point = random.pick(ROTATE_POINTS);
    made.push({ ...rotate(random, to, [...named, "--batch-size=5"]), crashAt: point });
    if (how === "cancelled") made.push({ do: "command", words: ["kek", "rotate", "--cancel"] });
    made.push(...acts(random, [1, 4, 2]));
  }
  made.push(rotate(random, to, named));
}

function rotate(random: Random, to: number, more: string[] = []): Step & { do: "command" } {
  const words = ["kek", "rotate", `--to-version=${to}`, "--yes", ...more];
  if (random.chance(0.3)) words.push("--remove-old");
  if (random.chance(0.05)) words.push("--fence=off");
  return { do: "command", words };
}

function removal(random: Random, version: number): Step[] {
  const words = ["kek", "remove", `--version=${version}`, "--yes"];
  if (random.chance(0.2))
    return [
      { do: "command", words, crashAt: random.pick(REMOVE_POINTS) },
      ...acts(random, [2, 1, 0]),
      { do: "command", words },
    ];
  return [{ do: "command", words }];
}

/** @param counts the weights of none, one and two. */
function acts(random: Random, [none, one, two]: [number, number, number]): Step[] {
  const count = random.weigh([
    [0, none],
    [1, one],
    [2, two],
  ] as const);
  return Array.from({ length: count }, () =>
    random.chance(0.05)
      ? { do: "field command", verb: random.pick(["add", "remove"] as const), field: random.between(0, 11) }
      : { do: "act", act: act(random) },
  );
}

const RENAMED = [
  ["renamed", 4],
  ["kek_users", 1],
  ["audit_log_of", 1],
] as const;

function act(random: Random): Act {
  const collection = random.between(0, 11);
  const field = random.between(0, 11);
  return random.weigh<() => Act>([
    [() => ({ act: "rename", collection, to: random.weigh(RENAMED) }), 4],
    [() => ({ act: "rename back", collection }), 2],
    [() => ({ act: "drop", collection }), 1],
    [() => ({ act: "empty kek_fields", drop: random.chance(0.5) }), 2],
    [() => ({ act: "copy kek_fields" }), 1],
    [() => ({ act: "restore kek_fields" }), 2],
    [() => ({ act: "unregister", field }), 2],
    [() => ({ act: "register", field }), 2],
    [() => ({ act: "hide index", field }), 3],
    [() => ({ act: "drop index", field }), 2],
    [() => ({ act: "odd index", field, kind: random.pick(INDEX_KINDS) }), 4],
    [
      () => ({
        act: "move records",
        collection,
        to: random.between(-1, 5),
        share: random.pick([0.2, 1]),
      }),
      3,
    ],
    [() => ({ act: "copy envelope", collection, to: random.pick(COPIES) }), 2],
    [() => ({ act: "annotate envelope", collection }), 0.5],
    [
      () => ({
        act: "insert late",
        field,
        version: random.weigh([
          [1, 5],
          [2, 1],
        ] as const),
        elsewhere: random.chance(0.3),
      }),
      3,
    ],
  ])();
}
