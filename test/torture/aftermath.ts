import { readdirSync } from "node:fs";
import { join } from "node:path";
import { EJSON } from "bson";
import type { Document } from "mongodb";
import type { Part } from "./fleet.ts";
import { Ledger, type Opened } from "./oracle.ts";
import { judge } from "./rules.ts";
import { ALL_WELL_MS, OWN_RULES, type Scene, VERSIONS } from "./scene.ts";
import { TIMES } from "./schedule.ts";

/** After the storm: everything is well, the rotation is brought to its end, and the oracle looks for what was lost. */

export interface Outcome {
  findings: string[];
  /** What happened when, for whoever has to find out why. */
  timeline: string[];
  writes: number;
  reads: number;
  rotations: number;
  acts: string[];
}

/** Left alone, an operator who runs the same command again gets it done; then everything is counted. */
export async function outcomeOf(scene: Scene): Promise<Outcome> {
  for (const part of scene.fleet.living(scene.fleet.coordinators)) {
    part.child.kill("SIGCONT");
    await Promise.race([part.exited, Bun.sleep(ALL_WELL_MS)]);
    if (part.child.exitCode === null) {
      scene.findings.push(`${part.name} was left alone and did not end: ${part.stderr().slice(-300)}`);
      scene.fleet.kill(part);
    }
  }
  await complete(scene);
  await repaired(scene);
  await onward(scene);
  for (const late of await scene.fleet.end([...scene.fleet.services, ...scene.fleet.serving], 30_000))
    scene.findings.push(`${late} did not end when it was told to`);
  await scene.history.finish();
  const opened = await openAll(scene);
  const ledger = Ledger.read(
    readdirSync(scene.directory)
      .filter(isLedger)
      .map((file) => join(scene.directory, file)),
  );
  if (opened !== undefined && opened.length !== scene.schedule.records)
    scene.findings.push(`${opened.length} of ${scene.schedule.records} records are there`);
  const { findings, stale } = judge(scene.history.changes);
  if (opened !== undefined) scene.findings.push(...ledger.findings(opened, stale));
  scene.findings.push(...findings, ...promises(scene));
  scene.findings.push(...(await rulesAside(scene)));
  const audit = await scene.command(["audit", "verify"], false);
  if (audit.code !== 0) scene.findings.push(`the audit chain is not whole: ${audit.stderr}${audit.stdout}`);
  return {
    findings: [...new Set(scene.findings)],
    timeline: [...scene.timeline, ...audited(scene), ...failuresOf(ledger)],
    writes: ledger.counts.writes,
    reads: ledger.counts.reads,
    rotations: completed(scene),
    acts: scene.schedule.acts.map(({ act }) => act.act),
  };
}

async function complete(scene: Scene): Promise<void> {
  const until = performance.now() + ALL_WELL_MS;
  for (let last = ""; ; await Bun.sleep(500)) {
    const open = await scene.db.collection("kek_rotations").findOne({ open: true });
    if (open === null) return;
    if (performance.now() > until) {
      scene.findings.push(`the rotation does not come to its end: ${last}`);
      return;
    }
    const words = [`--to-version=${open["to"]}`, `--from-version=${open["from"]}`, ...(await scene.deadMembers())];
    const part = scene.fleet.rotate(words);
    await scene.ended(part);
    last = part.stderr().slice(-500);
  }
}

/** What people put back, or hid from a rotation, is brought to the version in use; the keys for it must still be there. */
async function repaired(scene: Scene): Promise<void> {
  const until = performance.now() + ALL_WELL_MS;
  for (let last = ""; ; await Bun.sleep(500)) {
    const active = await scene.db.collection<{ _id: number }>("kek_versions").findOne({ state: "active" });
    const query = { "value.kek_version": { $ne: active?._id } };
    const left = await scene.db.collection("secrets").countDocuments(query);
    if (left === 0) return;
    if (performance.now() > until) {
      scene.findings.push(`${left} stale records cannot be brought to version ${active?._id}: ${last}`);
      return;
    }
    const before = scene.fleet.coordinators.length;
    await scene.repair();
    last = scene.fleet.coordinators[before]?.stderr().slice(-500) ?? "";
    // A coordinator that was stopped in between leaves a rotation that is open.
    await complete(scene);
  }
}

/** With everything well, and the fleet at work, one more: what was held back in the storm arrives after it. */
async function onward(scene: Scene): Promise<void> {
  const [active] = await scene.db.collection<{ _id: number }>("kek_versions").find({ state: "active" }).toArray();
  const gone = await scene.db.collection<{ _id: number }>("kek_versions").distinct("_id", { state: "destroyed" });
  // The next one round, of those that are left.
  const next = VERSIONS.map((_, step) => (((active?._id ?? 1) + step) % VERSIONS.length) + 1);
  const to = next.find((version) => version !== active?._id && !gone.includes(version));
  if (to === undefined) return;
  const until = performance.now() + ALL_WELL_MS;
  for (let last = ""; ; ) {
    if (performance.now() > until) {
      scene.findings.push(`a rotation with everything well does not come to its end: ${last}`);
      return;
    }
    const before = scene.fleet.coordinators.length;
    // Whether it is the next version or one that was left before: it is asked for by both names.
    scene.declare(to);
    await Bun.sleep(3 * TIMES.beatMs);
    await scene.rotate(to, active?._id ?? 1);
    last = scene.fleet.coordinators[before]?.stderr().slice(-500) ?? "";
    if (scene.fleet.coordinators[before]?.child.exitCode === 0) return;
    await Bun.sleep(500);
  }
}

/** What a command reported as done is in the history: nothing that was promised was rolled back. */
function promises(scene: Scene): string[] {
  const events = scene.history.changes.flatMap((change) => (change.of === "audit" ? [change] : []));
  const kept = ({ name, began }: Part) => {
    const to = /--to-version=(\d+)/.exec(name)?.[1];
    const removed = /kek remove --version=(\d+)/.exec(name)?.[1];
    if (removed !== undefined)
      return events.some((entry) => entry.event === "version.destroyed" && entry.data["version"] === Number(removed));
    const event = name.includes("--cancel") ? "rotation.cancelled" : "rotation.completed";
    return events.some(
      (entry) => entry.event === event && entry.at > began && (to === undefined || entry.data["to"] === Number(to)),
    );
  };
  return [...scene.fleet.coordinators, ...scene.cancels, ...scene.removals]
    .filter((part) => part.child.exitCode === 0 && !kept(part))
    .map(({ name }) => `${name} ended with exit code 0, and what it did is not in the history`);
}

function completed(scene: Scene): number {
  return scene.history.changes.filter((change) => change.of === "audit" && change.event === "rotation.completed")
    .length;
}

function audited(scene: Scene): string[] {
  return scene.history.changes.flatMap((change) => {
    if (change.of !== "audit") return [];
    const seconds = (change.at.getTime() - scene.beganAt.getTime()) / 1000;
    return [`${seconds.toFixed(2)} s  audit: ${change.event} ${JSON.stringify(change.data)} by ${change.actor}`];
  });
}

/** With the keys that the product says are needed, and no other. @returns undefined when it could not be tried: a finding too. */
async function openAll(scene: Scene): Promise<Opened[] | undefined> {
  const active = await scene.db.collection("kek_versions").find({ state: "active" }).toArray();
  if (active.length !== 1) scene.findings.push(`${active.length} versions are active`);
  const version = Number(active[0]?._id ?? 1);
  const keys = scene.token === undefined ? scene.keys([version]) : {};
  const loader = scene.fleet.service("verify", { CERTAUTOPILOT_SECRETS_FILE: "", ...keys });
  const { code } = await loader.exited;
  if (code !== 0) {
    scene.findings.push(`the records could not be opened: ${loader.stderr().slice(-500)}`);
    return undefined;
  }
  return loader
    .stdout()
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Opened);
}

/** The collection has its own rules, and besides them the fence that the newest rotation says it has; nothing else. */
async function rulesAside(scene: Scene): Promise<string[]> {
  const [newest] = await scene.db.collection("kek_rotations").find().sort({ epoch: -1 }).limit(1).toArray();
  const left: number[] = newest?.["fence"].versions ?? [];
  const fence = { $comment: "certautopilot fence", $nor: [{ "value.kek_version": { $in: left } }] };
  const validator = left.length === 0 ? OWN_RULES : { $and: [OWN_RULES, fence] };
  const [secrets] = await scene.db.listCollections({ name: "secrets" }).toArray();
  const { validator: there, validationLevel = "strict", validationAction = "error" } = (secrets as Document)["options"];
  const found = EJSON.stringify({ validator: there, validationLevel, validationAction });
  const wanted = EJSON.stringify({ validator, validationLevel: "strict", validationAction: "error" });
  return found === wanted ? [] : [`the collection's rules are ${found}, and should be ${wanted}`];
}

const isLedger = (file: string) => file.startsWith("ledger-");

function failuresOf(ledger: Ledger): string[] {
  return [...ledger.counts.failures].map(([what, count]) => `${count} times ${what}`);
}
