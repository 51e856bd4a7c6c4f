import type { Document } from "mongodb";
import type { Change } from "./history.ts";

/**
 * What may never be in a history, whatever failed: the promises of the protocol as rules over the order of changes.
 * Pure. Each finding is a sentence that names the record, process or rotation.
 */

interface State {
  secrets: Map<number, { version: number; revision: number; payload: string; restored: number | undefined }>;
  rotations: Map<number, Document>;
  heartbeats: Map<string, Document>;
  versions: Map<number, Document>;
  findings: string[];
  /** The field is registered, and its collection has its name: only then can the product see the records. */
  registered: boolean;
  inPlace: boolean;
  /** At some moment since the open rotation came to re-wrapping it could not. */
  unseen: boolean;
  /** Versions that were left at such a moment: there may be no fence against them. */
  unfenced: Set<number>;
  stale: Set<string>;
}

export interface Judgement {
  findings: string[];
  /** `<record>/<version>` of envelopes that somebody put back, or hid from a rotation: nobody need hold their key. */
  stale: Set<string>;
}

export function brokenRules(changes: Change[]): string[] {
  return judge(changes).findings;
}

export function judge(changes: Change[]): Judgement {
  const state: State = {
    secrets: new Map(),
    rotations: new Map(),
    heartbeats: new Map(),
    versions: new Map(),
    findings: [],
    registered: true,
    inPlace: true,
    unseen: false,
    unfenced: new Set(),
    stale: new Set(),
  };
  for (const change of changes) {
    if (change.of === "secret") secretChanged(state, change);
    else if (change.of === "rotation") rotationChanged(state, change);
    else if (change.of === "version") versionChanged(state, change);
    else if (change.of === "field") state.registered = change.registered;
    else if (change.of === "renamed") state.inPlace = change.there;
    else if (change.of === "heartbeat") heartbeatChanged(state, change);
    if (!isSeen(state)) state.unseen = true;
  }
  return { findings: [...new Set([...state.findings, ...auditFindings(changes)])], stale: state.stale };
}

// ---------------------------------------------------------------------------------------------------------------------

function isSeen({ registered, inPlace }: State): boolean {
  return registered && inPlace;
}

function staleName(id: number, version: number): string {
  return `${id}/${version}`;
}

/** Whatever was done to the database: a key is destroyed only when nothing needs it. */
function versionChanged(state: State, { id, doc, at }: Change & { of: "version" }): void {
  const before = state.versions.get(id);
  state.versions.set(id, doc);
  if (doc["state"] !== "destroyed" || before?.["state"] === "destroyed") return;
  const lost = [...state.secrets].filter(([, { version }]) => version === id).map(([record]) => record);
  if (lost.length > 0)
    state.findings.push(
      `version ${id} was destroyed with ${lost.length} records under it: ${lost.slice(0, 5).join(", ")} (${when(at)})`,
    );
}

function secretChanged(state: State, change: Change & { of: "secret" }): void {
  const { id, version, revision, payload, restored, at } = change;
  const before = state.secrets.get(id);
  state.secrets.set(id, { version, revision, payload, restored });
  const found = (what: string) => state.findings.push(`record ${id}, revision ${revision}: ${what} (${when(at)})`);
  if (before?.revision === revision && before.payload !== payload) found("its ciphertext was changed");
  if (before !== undefined && revision < before.revision) found(`revision ${before.revision} was lost`);
  if (isExcused(state, change, before)) {
    state.stale.add(staleName(id, version));
    return;
  }
  for (const beat of state.heartbeats.values()) {
    // One that has not acknowledged anything yet does not serve yet.
    if (
      beat["acked"] !== null &&
      beat["acked"] !== undefined &&
      !beat["loaded"].includes(version) &&
      before?.version !== version
    )
      found(`written under KEK version ${version} before ${beat["instance_name"]} had loaded it: ${standing(state)}`);
  }
  const allowed = writable(state);
  if (!allowed.includes(version))
    found(`written under KEK version ${version}, when only ${allowed.join(" and ")} might be: ${standing(state)}`);
}

/**
 * An old envelope that somebody put back past the validator; one that was stale before, in a document that is replaced; and one
 * that arrives where there may be no fence, because the field could not be seen when its version was left.
 */
function isExcused(
  state: State,
  { id, version, restored }: Change & { of: "secret" },
  before: { version: number; restored: number | undefined } | undefined,
): boolean {
  if (restored !== undefined && (before?.restored ?? 0) < restored) return true;
  if (writable(state).includes(version)) return false;
  return (before?.version === version && state.stale.has(staleName(id, version))) || state.unfenced.has(version);
}

/** Versions that an envelope may arrive under, as the state stands. */
function writable(state: State): number[] {
  const open = openRotation(state);
  const active = [...state.versions.values()].filter((version) => version["state"] === "active").map(({ _id }) => _id);
  if (open === undefined) return active;
  const { from, to, phase, reverses } = open;
  // The reverse rotation of an unfinished rotation begins with records, and writers, at both.
  if (phase === 1) return reverses === undefined ? [from] : [from, to];
  return phase === 2 ? [from, to] : [to];
}

function rotationChanged(state: State, { id, doc, at }: Change & { of: "rotation" }): void {
  const before = state.rotations.get(id);
  state.rotations.set(id, doc);
  const found = (what: string) =>
    state.findings.push(`rotation ${id} (${doc["from"]} → ${doc["to"]}): ${what} (${when(at)})`);
  if ([...state.rotations.values()].filter(({ open }) => open === true).length > 1) found("more than one is open");
  if (before === undefined || doc["phase"] !== before["phase"]) leftPhase(state, doc, found);
  if (before === undefined) return;
  if (doc["epoch"] < before["epoch"]) found(`its epoch went back from ${before["epoch"]} to ${doc["epoch"]}`);
  leaseChanged(before, doc, at, found);
  const settled = before["state"] === "running" && doc["state"] === "completed";
  if (doc["phase"] === before["phase"] && !settled) return;
  if (!settled && doc["phase"] !== before["phase"] + 1)
    found(`it went from phase ${before["phase"]} to ${doc["phase"]}`);
  if (before["state"] === "completed") found("it changed after it was complete");
  for (const beat of state.heartbeats.values()) {
    const acked = beat["acked"];
    if (acked === null || acked === undefined) continue;
    if (acked.rotation !== id || acked.epoch !== before["epoch"] || acked.phase !== before["phase"])
      found(
        `it left phase ${before["phase"]} before ${beat["instance_name"]} had acknowledged it: ${JSON.stringify(acked)}`,
      );
  }
}

/** What was left behind is a finding, unless the product could not see it: then it must still be openable in the end. */
function leftPhase(state: State, { phase, from }: Document, found: (what: string) => void): void {
  if (phase !== 3) {
    state.unseen = !isSeen(state);
    return;
  }
  const left = [...state.secrets]
    .filter(([id, { version }]) => version === from && !state.stale.has(staleName(id, version)))
    .map(([id]) => id);
  if (state.unseen) {
    for (const id of left) state.stale.add(staleName(id, from));
    state.unfenced.add(from);
    return;
  }
  state.unfenced.clear();
  if (left.length > 0) found(`it settles with records ${left.slice(0, 5).join(", ")} still under version ${from}`);
}

/** One coordinator at a time: a token only grows, and changes hands when it was given back or has run out. */
function leaseChanged(before: Document, doc: Document, at: Date, found: (what: string) => void): void {
  const [old, now] = [before["lease"], doc["lease"]];
  if (old === null || now === null || old === undefined || now === undefined) return;
  if (now.token < old.token) found(`its lease's token went back from ${old.token} to ${now.token}`);
  if (now.token === old.token && now.owner !== null && old.owner !== null && now.owner !== old.owner)
    found("its lease has another owner under the same token");
  const runsYet = old.owner !== null && old.expires_at > at;
  if (now.token > old.token && runsYet) found("two coordinators: its lease was taken over before it had run out");
  if (now.token === old.token && now.expires_at > old.expires_at && old.expires_at < new Date(at.getTime() - SLACK_MS))
    found("a coordinator whose lease had run out went on");
}

function heartbeatChanged(state: State, { id, doc }: Change & { of: "heartbeat" }): void {
  const open = openRotation(state);
  if (doc !== undefined && open !== undefined && isOf(doc["acked"], open)) {
    const { from, to, phase } = open;
    const holds = phase === 3 ? [to] : [from, to];
    const truth =
      holds.every((version) => doc["loaded"].includes(version)) && doc["write_version"] === (phase === 1 ? from : to);
    if (!truth || (phase === 3 && doc["loaded"].includes(from)))
      state.findings.push(
        `${doc["instance_name"]} acknowledged phase ${phase} of ${from} → ${to} holding ${doc["loaded"].join(", ")} and writing under ${doc["write_version"]}`,
      );
  }
  if (doc === undefined) state.heartbeats.delete(id);
  else state.heartbeats.set(id, doc);
}

/** Whether it acknowledges this very moment of the rotation. */
function isOf(acked: Document | null | undefined, { _id, epoch, phase }: Document): boolean {
  return acked?.["rotation"] === _id && acked?.["epoch"] === epoch && acked?.["phase"] === phase;
}

/** The audit log tells the same story as the documents, and nobody was evicted whose own lease still ran. */
function auditFindings(changes: Change[]): string[] {
  const findings: string[] = [];
  const beats = new Map<string, { at: Date; leaseMs: number }>();
  const owners = new Map<number, string | null>();
  const told: string[] = [];
  const done: string[] = [];
  const phases = new Map<number, Document>();
  for (const change of changes) {
    if (change.of === "heartbeat" && change.doc !== undefined)
      beats.set(change.id, { at: change.doc["updated_at"], leaseMs: change.doc["fleet"]?.lease_ms ?? 0 });
    if (change.of === "audit") {
      const { event, data, actor } = change;
      const owner = owners.get(Number(data["rotation"]));
      if (["rotation.phase", "rotation.completed", "process.evicted"].includes(event) && owner && actor !== owner)
        findings.push(
          `two coordinators: ${event} by ${actor}, when ${owner} held the lease of rotation ${data["rotation"]}`,
        );
      if (event === "rotation.phase") told.push(`rotation ${data["rotation"]} to phase ${data["phase"]}`);
      if (event === "rotation.completed") told.push(`rotation ${data["rotation"]} complete`);
      if (event !== "process.evicted") continue;
      const beat = beats.get(data["process"]);
      if (beat !== undefined && change.at.getTime() - beat.at.getTime() < beat.leaseMs)
        findings.push(`${data["name"]} was evicted while its own lease still ran`);
    }
    if (change.of !== "rotation") continue;
    // A lease that was given back names nobody; the event of that very change comes after it.
    const owner = change.doc["lease"]?.owner;
    if (owner !== null) owners.set(change.id, owner);
    const before = phases.get(change.id);
    phases.set(change.id, change.doc);
    if (before === undefined) continue;
    if (change.doc["phase"] !== before["phase"]) done.push(`rotation ${change.id} to phase ${change.doc["phase"]}`);
    if (change.doc["state"] === "completed" && before["state"] !== "completed")
      done.push(`rotation ${change.id} complete`);
  }
  if (told.join("; ") !== done.join("; "))
    findings.push(`the audit log tells another story: ${told.join("; ")}, but what happened is ${done.join("; ")}`);
  return findings;
}

/** The wall time of a change is the primary's when it wrote it, which may be a moment after it compared. */
const SLACK_MS = 2000;

function openRotation(state: State): Document | undefined {
  return [...state.rotations.values()].filter(({ open }) => open === true).sort((a, b) => b["epoch"] - a["epoch"])[0];
}

function standing(state: State): string {
  const open = openRotation(state);
  return open === undefined
    ? "no rotation was open"
    : `rotation ${open["_id"]} (${open["from"]} → ${open["to"]}) was in phase ${open["phase"]}`;
}

function when(at: Date): string {
  return at.toISOString().slice(11, 23);
}
