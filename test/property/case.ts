import { randomBytes } from "node:crypto";
import type { MongoClient } from "mongodb";
import { idOf, nth, perform } from "./acts.ts";
import { changes, type Found, type Scan, scan } from "./ledger.ts";
import { type Program, type Ran, type Started, variablesOf } from "./program.ts";
import type { Step, Story } from "./story.ts";
import { World } from "./world.ts";

/** One case: its database is built, its steps are done, and after each command the oracle looks at everything. */

/** Where the envelopes were that a command left without a key, or left behind: which of the causes is at work. */
export type Cause =
  | "registered, and not counted"
  | "the registry was lost"
  | "in a renamed collection"
  | "moved"
  | "copied"
  | "never registered";

export interface Finding {
  kind: "loss" | "left behind" | "changed" | "fault";
  cause?: Cause;
  text: string;
}

export interface Outcome {
  findings: Finding[];
  /** What was done, and what became of it. */
  story: string[];
  commands: number;
  rotations: number;
  destroyed: number;
  refusals: string[];
}

export interface Conditions {
  program: Program;
  client: MongoClient;
  uri: string;
}

export async function runCase(story: Story, conditions: Conditions): Promise<Outcome> {
  const running = new Running(story, conditions);
  try {
    return await running.run();
  } finally {
    await running.cleanUp();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

class Running {
  readonly #world: World;
  readonly #conditions: Conditions;
  readonly #variables: Record<string, string>;
  readonly #out: Outcome = { findings: [], story: [], commands: 0, rotations: 0, destroyed: 0, refusals: [] };
  #serving: Started | undefined;
  #gone = new Set<number>();
  #reported = new Set<string>();

  constructor(story: Story, conditions: Conditions) {
    this.#conditions = conditions;
    const name = `property_${randomBytes(5).toString("hex")}`;
    this.#world = new World(conditions.client.db(name), story);
    this.#variables = variablesOf(conditions.uri, name, this.#world.install.keys);
  }

  async run(): Promise<Outcome> {
    const refused = await this.#world.build();
    this.#out.story.push(...describe(this.#world.story), ...refused.map((what) => `MongoDB refused: ${what}`));
    if (this.#world.story.serve !== undefined) await this.#serve();
    for (const step of this.#world.story.steps) {
      if (step.do === "act") await this.#act(step.act, false);
      else if (step.do === "field command") await this.#fieldCommand(step);
      else await this.#command(step);
      // What is lost stays lost: whatever follows would be told as found again.
      if (this.#out.findings.some(({ kind }) => kind === "loss")) break;
    }
    return this.#out;
  }

  async cleanUp(): Promise<void> {
    this.#serving?.child.kill("SIGKILL");
    await this.#serving?.ended;
    await this.#world.db.dropDatabase();
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #serve(): Promise<void> {
    const { fields, story } = this.#world;
    const declared = (story.serve?.fields ?? []).flatMap((at) => {
      const field = fields[at];
      return field === undefined ? [] : [idOf(field)];
    });
    const serving = this.#conditions.program.start(["serve"], {
      ...this.#variables,
      // The one that the rotation leads to: the fleet is ready for it.
      CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: target(story),
      CERTAUTOPILOT_INSTANCE_NAME: "serve",
      ...(declared.length === 0 ? {} : { CERTAUTOPILOT_FIELDS: declared.join(",") }),
    });
    this.#serving = serving;
    let over = false;
    void serving.ended.then(() => {
      over = true;
    });
    while (!over && !serving.stderr().includes(" is ready on ")) await Bun.sleep(20);
    this.#tell(`serve with FIELDS=${declared.join(",")}: ${over ? `ended: ${lastLines(serving.stderr())}` : "ready"}`);
    // One that cannot start is an operator's problem, and no process of the fleet.
    if (over) this.#serving = undefined;
    else
      for (const id of declared) {
        this.#world.registered.add(id);
        this.#world.everRegistered.add(id);
      }
  }

  async #act(act: Parameters<typeof perform>[1], live: boolean): Promise<void> {
    try {
      const done = await perform(this.#world, act, live);
      if (done !== undefined) this.#tell(`${live ? "  in phase 2: " : ""}${done}`);
    } catch (thrown) {
      this.#tell(`could not: ${act.act}: ${(thrown as Error).message}`);
    }
  }

  async #fieldCommand({ verb, field: n }: Step & { do: "field command" }): Promise<void> {
    const { program } = this.#conditions;
    const field = nth(this.#world.fields, n);
    if (!program.can.field || field === undefined) return;
    const id = idOf(field);
    const ran = await this.#checked(["kek", "field", verb, id]);
    if (ran.code !== 0) return;
    if (verb === "remove") this.#world.registered.delete(id);
    else {
      this.#world.registered.add(id);
      this.#world.everRegistered.add(id);
    }
  }

  async #command({ words, crashAt, live }: Step & { do: "command" }): Promise<void> {
    const starts = words.includes("rotate") && !words.includes("--cancel");
    const version = Number(/--version=(\d+)/.exec(words.join(" "))?.[1]);
    const versions = this.#world.db.collection<{ _id: number }>("kek_versions");
    // The rotation was refused: what follows would be refused for that alone.
    if (words.includes("remove") && (await versions.findOne({ _id: version, state: "active" })) !== null) return;
    const all = starts && this.#conditions.program.can.noBackupCheck ? [...words, "--no-backup-check"] : words;
    for (let again = 0; ; again += 1) {
      const ran = await this.#checked(all, crashAt, live);
      if (ran.code === 0 || again === 5) return;
      // As its hint says: a busy machine has cost it its lease, and the same command continues from there.
      if (/lease ran out|another coordinator/.test(ran.stderr)) continue;
      // Every other operator does what a refusal asks for, and runs the command again.
      if (this.#world.story.seed % 2 === 0 || !(await this.#followed(ran))) return;
    }
  }

  /** @returns whether a hint named a command. */
  async #followed({ stderr }: Ran): Promise<boolean> {
    const shells = [...stderr.matchAll(/run in mongosh: (.*)$/gm)].map(([, command = ""]) => command);
    for (const command of new Set(shells))
      await this.#follow(command).catch((thrown) => this.#tell(`could not: ${command}: ${(thrown as Error).message}`));
    const fields = [...stderr.matchAll(/certautopilot kek field add (\S+?)\.? /g)].map(([, field = ""]) => field);
    let added = 0;
    for (const id of new Set(fields)) {
      if ((await this.#checked(["kek", "field", "add", id.replace(/\.$/, "")])).code !== 0) continue;
      added += 1;
      this.#world.registered.add(id);
      this.#world.everRegistered.add(id);
    }
    return shells.length + added > 0;
  }

  /** Runs a command, and holds everything in the database to what it said. */
  async #checked(words: string[], crashAt?: string, live?: Step[] | Parameters<typeof perform>[1][]): Promise<Ran> {
    const { program } = this.#conditions;
    const acts = (live ?? []) as Parameters<typeof perform>[1][];
    const before = await scan(this.#world.db);
    const armed = crashAt === undefined ? {} : { CERTAUTOPILOT_TEST_CRASH_AT: crashAt };
    const ran = await program.run(
      words,
      { ...this.#variables, ...armed },
      acts.length === 0
        ? undefined
        : async () => {
            for (const act of acts) await this.#act(act, true);
          },
      (command) => this.#follow(command),
    );
    this.#out.commands += 1;
    const [error = ""] = /error: .*/.exec(ran.stderr) ?? [];
    const how = ran.hung ? "HUNG" : ran.code === null ? `killed at ${crashAt}` : `exit ${ran.code}`;
    this.#tell(`${words.join(" ")}: ${how} ${ran.code === 0 ? lastLines(ran.stdout, 2) : error}`);
    if (ran.hung) this.#found("fault", `it hung: ${words.join(" ")}: ${lastLines(ran.stderr)}`);
    if (ran.code === 1) this.#found("fault", `exit code 1: ${words.join(" ")}: ${lastLines(ran.stderr)}`);
    if (ran.code === null && crashAt === undefined && !ran.hung) this.#found("fault", `it died: ${words.join(" ")}`);
    if (error !== "") this.#out.refusals.push(error);
    const after = await scan(this.#world.db);
    if (acts.length === 0)
      for (const change of changes(before, after)) this.#found("changed", `${words.join(" ")}: ${change}`);
    await this.#judge(ran, after);
    return ran;
  }

  /** What a command that waits says is to be run: then it must go on. */
  async #follow(command: string): Promise<void> {
    this.#tell(`followed: ${command}`);
    const { db } = this.#world;
    const dropped = /^db\.getSiblingDB\(".*?"\)\.getCollection\((".*")\)\.dropIndex\((".*")\)$/.exec(command);
    const shown =
      /^db\.getSiblingDB\(".*?"\)\.runCommand\((\{collMod: ".*", index: \{name: ".*", hidden: false\}\})\)$/.exec(
        command,
      );
    if (dropped !== null)
      await db.collection(JSON.parse(dropped[1] as string)).dropIndex(JSON.parse(dropped[2] as string));
    else if (shown !== null)
      await db.command(JSON.parse((shown[1] as string).replaceAll(/(\{|, )([a-zA-Z]+):/g, '$1"$2":')));
    else this.#found("fault", `no command that mongosh knows: ${command}`);
  }

  async #judge({ words, code, stderr }: Ran, { envelopes }: Scan): Promise<void> {
    const { db, install, ledger } = this.#world;
    const versions = await db.collection<{ _id: number; state: string }>("kek_versions").find().toArray();
    const gone = new Set(versions.filter(({ state }) => state === "destroyed").map(({ _id }) => _id));
    for (const version of gone) if (!this.#gone.has(version)) this.#out.destroyed += 1;
    this.#gone = gone;
    const lost = envelopes.flatMap((found) => {
      const fault = ledger.fault(install, found, gone);
      return fault === undefined ? [] : [{ found, fault }];
    });
    for (const [cause, some] of grouped(lost, ({ found }) => this.#cause(found)))
      this.#found("loss", `${words.join(" ")}: ${inWords(some)}`, cause);
    if (code !== 0 || !words.includes("rotate") || words.includes("--cancel")) return;
    this.#out.rotations += 1;
    // A field that was registered after the last count, in phase 3: the command says so, and how they are moved.
    if (/envelopes of .* are still at version/.test(stderr)) return;
    const [newest] = await db.collection("kek_rotations").find().sort({ _id: -1 }).limit(1).toArray();
    const now = await this.#world.registry().distinct("_id");
    const registered = new Set([...now, ...this.#world.registered]);
    const left = envelopes
      .filter((found) => registered.has(`${found.collection}:${found.path}`) && found.version === newest?.["from"])
      .map((found) => ({ found, fault: `at version ${found.version}` }));
    for (const [cause, some] of grouped(left, ({ found }) => this.#cause(found)))
      this.#found("left behind", `${words.join(" ")}: ${inWords(some)}`, cause);
  }

  #cause(found: Found): Cause {
    const { ledger, registered, everRegistered, collections } = this.#world;
    const id = `${found.collection}:${found.path}`;
    if (registered.has(id)) return "registered, and not counted";
    if (everRegistered.has(id)) return "the registry was lost";
    const place = ledger.placeOf(found);
    if (place !== undefined && place.path !== found.path) return "copied";
    const renamed = collections.some(({ name, plan }) => name === found.collection && plan.name !== name);
    if (renamed) return "in a renamed collection";
    return place !== undefined && place.collection !== found.collection ? "moved" : "never registered";
  }

  #found(kind: Finding["kind"], text: string, cause?: Cause): void {
    // The same is found again after each further command.
    if (this.#reported.has(text)) return;
    this.#reported.add(text);
    this.#out.findings.push({ kind, text, ...(cause === undefined ? {} : { cause }) });
    this.#tell(`FOUND ${kind}${cause === undefined ? "" : ` (${cause})`}: ${text}`);
  }

  #tell(what: string): void {
    this.#out.story.push(what.trimEnd());
  }
}

function describe({ collections, view, seed }: Story): string[] {
  const lines = collections.map(({ name, kind, ids, records, others, numbers, fields }) => {
    const each = fields.map(({ path, registered, own, odd, arrays }) => {
      const traits = [registered ? "registered" : "not registered", `own index ${own}`, ...odd];
      return `${path} (${[...traits, ...(arrays ? ["arrays"] : [])].join("; ")})`;
    });
    return `${name}: ${kind}, ids ${ids}, ${records} records, ${others} others, ${numbers.join("/")}: ${each.join(", ")}`;
  });
  return [`contents by seed ${seed}`, ...lines, ...(view === "none" ? [] : [`a view is ${view}`])];
}

function target({ steps }: Story): string {
  const words = steps.flatMap((step) => (step.do === "command" ? step.words : []));
  return /--to-version=(\d+)/.exec(words.join(" "))?.[1] ?? "2";
}

function grouped<T>(items: T[], by: (item: T) => Cause): Map<Cause, T[]> {
  const groups = new Map<Cause, T[]>();
  for (const item of items) groups.set(by(item), [...(groups.get(by(item)) ?? []), item]);
  return groups;
}

function inWords(some: { found: Found; fault: string }[]): string {
  const [first] = some;
  if (first === undefined) return "nothing";
  const where = [...new Set(some.map(({ found }) => `${found.collection}:${found.path}`))];
  return `${some.length} envelopes of ${where.slice(0, 3).join(", ")}: ${first.fault}`;
}

function lastLines(text: string, count = 6): string {
  return text.trim().split("\n").slice(-count).join(" | ");
}
