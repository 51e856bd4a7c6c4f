import { KekError } from "../errors/errors.ts";
import { loadVerified } from "../fleet/key_loader.ts";
import type { RotationDoc, VersionDoc } from "../protocol/documents.ts";
import { keyPolicyOf } from "../protocol/key_policy.ts";
import type { Member } from "../protocol/member.ts";
import { nextSteps } from "../protocol/next_steps.ts";
import { isOpen } from "../protocol/phases.ts";
import type { BackupCheck } from "../protocol/preflight.ts";
import type { Problem } from "../protocol/problem.ts";
import { fleetProblems } from "../protocol/readiness.ts";
import type { Plan } from "../protocol/rotation_plan.ts";
import type { VersionCount } from "../protocol/version_count.ts";
import { wrapWarnings, writable } from "../protocol/wrap_limit.ts";
import type { Capability } from "../providers/provider.ts";
import { judgeFacts } from "../status/findings.ts";
import { isLed } from "../status/fleet_problems.ts";
import { readCounts, readFacts } from "../status/read_status.ts";
import { audited } from "../store/audit_log.ts";
import { readRoster } from "../store/heartbeats.ts";
import { type KekState, readState } from "../store/state.ts";
import { serverNow } from "../store/store.ts";
import { markBackupVerified } from "../store/versions.ts";
import { assessRotation } from "./assessment.ts";
import type { Context } from "./context.ts";

/** `kek verify`: reads everything, changes nothing (but the mark that a backup was verified). */

export interface Verification {
  ready: boolean;
  target: number | undefined;
  active: number | undefined;
  processes: Member[];
  versionCounts: VersionCount[];
  problems: Problem[];
  /** What is no problem yet. */
  warnings: Problem[];
  /** The rotation that is open. */
  rotation: RotationDoc | undefined;
  /** What the provider found when it tried itself out. */
  capabilities: Capability[];
}

export interface TargetQuestion {
  target: number;
  /** `--from-version`, as it would be given to `kek rotate`. */
  from: number | undefined;
  /** As `kek rotate` would be told. */
  backup: BackupCheck;
}

/** Would `kek rotate --to-version=<target>` begin now? Decided by the very function that it asks. */
export async function verifyTarget(context: Context, { target, from, backup }: TargetQuestion): Promise<Verification> {
  const { store, config, provider } = context;
  const wanted = { to: target, from };
  const request = { wanted, backup, evict: [], dryRun: true };
  // Nobody is to be evicted, so nothing is waited for.
  const assessed = await assessRotation(context, request, { note: () => undefined });
  const { plan, state, roster } = assessed;
  const active = activeOf(state);
  const problems = [...assessed.problems.filter(({ code }) => provider.staging !== "by_init" || code !== "own_key")];
  const doc = state.versions.find(({ _id }) => _id === target);
  // Who shares the token with the fleet sees by it whether a rotation could begin, or a copy of it be relied on: of all keys.
  if (provider.staging === "by_init" && doc !== undefined && doc.state !== "destroyed")
    problems.push(...(await canaryProblems(context, state, [...new Set([...keysInUse(state), doc])])));
  // A plan that is refused says nothing of the fleet, and whoever prepares it wants to know all that is lacking.
  if (plan.kind === "refuse")
    problems.push(
      ...fleetProblems(roster, { provider: provider.name, active, target, declaredMatters: true, times: config.fleet }),
    );
  else problems.push(...(await ledByAnother(context, plan)));
  return {
    ready: problems.length === 0,
    target,
    active,
    processes: await readRoster(store),
    versionCounts: [],
    problems,
    warnings: wrapWarnings(doc === undefined ? [] : [doc]),
    rotation: openOf(state),
    capabilities: await provider.probe(),
  };
}

/** The whole install's health: what `kek status` finds, and what takes this host's keys to find out. */
export async function verifyInstall(context: Context): Promise<Verification> {
  const { store, install, config, provider } = context;
  const facts = await readFacts(store, install, config, async (_, at) => ({ ...(await readCounts(store)), at }));
  const { state, roster, versionCounts } = facts;
  const { urgent, due } = judgeFacts(facts);
  const problems = [...(await canaryProblems(context, state, keysInUse(state))), ...urgent];
  return {
    ready: problems.length === 0,
    target: undefined,
    active: activeOf(state),
    processes: roster,
    versionCounts: versionCounts.rows,
    problems,
    warnings: [...(await missingKeys(context, state)), ...due],
    rotation: openOf(state),
    capabilities: await provider.probe(),
  };
}

/**
 * Proves that a copy of the secrets opens the canary of every version in use, and notes it for `--require-backup`.
 * @returns the versions that the copy opens, and those in it that the database does not know, so that nothing can be said of them.
 * @throws KekError `key_missing`, `key_mismatch`, naming the version.
 */
export async function verifyBackup(context: Context, file: string): Promise<{ versions: number[]; unknown: number[] }> {
  const { store, provider, install, auditor } = context;
  const copy = provider.overCopy(file);
  const verified: VersionDoc[] = [];
  let unknown: number[] = [];
  try {
    const { versions, rotation } = await readState(store);
    const held = await copy.held();
    const needed = writable(versions, rotation);
    unknown = held.filter((version) => !versions.some(({ _id }) => _id === version));
    for (const doc of versions.filter(({ state }) => state !== "destroyed")) {
      // A version that was left need not be in the copy; one that is there is verified, for the reverse rotation to it.
      if (!held.includes(doc._id) && !needed.includes(doc)) continue;
      if (!held.includes(doc._id)) throw notInCopy(file, doc._id);
      await loadVerified(copy, install.install_id, doc);
      verified.push(doc);
    }
  } finally {
    await copy.close();
  }
  const versions = verified.map(({ _id }) => _id);
  const marked = await audited(store, auditor, async (session) => {
    for (const doc of verified) if (!(await markBackupVerified(store, session, doc))) return undefined;
    return [{ event: "version.backup_verified", data: { versions }, result: true }];
  });
  if (marked !== undefined) return { versions, unknown };
  throw new KekError("refused", "a version was removed or made again while the copy was tried", "run it again");
}

// ---------------------------------------------------------------------------------------------------------------------

/** A coordinator that lives is left alone by another command. */
async function ledByAnother({ store }: Context, plan: Exclude<Plan, { kind: "refuse" }>): Promise<Problem[]> {
  const open = plan.kind === "resume" ? plan.rotation : plan.kind === "reverse" ? plan.replaces : undefined;
  if (open === undefined || !isLed(open, await serverNow(store))) return [];
  const message = `the rotation ${open.from} → ${open.to} is run by ${open.lease?.owner}`;
  return [{ code: "rotation", message, hint: openRotationHint(open) }];
}

function openRotationHint(open: RotationDoc): string {
  return [
    "follow it: certautopilot kek status --watch",
    ...nextSteps(open, true).map(({ does, command }) => `${does}: ${command}`),
  ].join("  or ");
}

function notInCopy(file: string, version: number): KekError {
  return new KekError(
    "key_missing",
    `${file} holds no key for KEK version ${version}`,
    "copy the secrets again, whole, and verify the copy again",
  );
}

function openOf({ rotation }: KekState): RotationDoc | undefined {
  return rotation !== undefined && isOpen(rotation) ? rotation : undefined;
}

function activeOf(state: KekState): number | undefined {
  return state.versions.find((version) => version.state === "active")?._id;
}

/**
 * The keys that this command can reach are tried; one that it cannot reach is no problem of the install, unless every process
 * shares this source of keys: what is gone here is gone for all, or this is a copy that lacks it.
 * @param needed the versions that must be there.
 */
async function canaryProblems(context: Context, state: KekState, needed: VersionDoc[]): Promise<Problem[]> {
  const { provider, install } = context;
  const problems: Problem[] = [];
  const held = await provider.available(state.versions.map(({ _id }) => _id));
  if (provider.staging === "by_init") {
    const readable = keyPolicyOf(state.versions, state.rotation)?.readable ?? [];
    for (const { _id: version, state: use } of needed.filter((doc) => !held.includes(doc._id))) {
      const why = readable.includes(version)
        ? "which records need"
        : use === "retired"
          ? "which a reverse rotation would need"
          : "which was made for a rotation to come";
      problems.push({
        code: "canary",
        message: `this command: there is no key of KEK version ${version}, ${why}`,
        hint: "name the token that holds it, or restore the key into this one",
      });
    }
  }
  for (const doc of state.versions.filter(({ _id, state }) => state !== "destroyed" && held.includes(_id))) {
    try {
      await loadVerified(provider, install.install_id, doc);
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      problems.push({ code: "canary", message: `this command: ${thrown.message}`, hint: thrown.hint });
    }
  }
  return problems;
}

/** Of keys in a file each host has its own copy: one that lacks a version in use can start no process. */
async function missingKeys({ provider }: Context, { versions, rotation }: KekState): Promise<Problem[]> {
  if (provider.staging === "by_init") return [];
  const held = await provider.held();
  return (keyPolicyOf(versions, rotation)?.readable ?? [])
    .filter((version) => !held.includes(version))
    .map((version) => ({
      code: "canary",
      message: `this command: there is no key of KEK version ${version}, which records need: no process could start with these settings`,
      hint: provider.howToGive(version, true),
    }));
}

/** What a whole backup of the keys must open: what records are under, and what is to be written under. */
function keysInUse({ versions, rotation }: KekState): VersionDoc[] {
  const readable = keyPolicyOf(versions, rotation)?.readable ?? [];
  const wanted = writable(versions, rotation);
  return versions.filter((doc) => readable.includes(doc._id) || wanted.includes(doc));
}
