import { KekError } from "../errors/errors.ts";
import { unfencedCollections } from "../fleet/fence_keeper.ts";
import { loadProved } from "../fleet/keystore.ts";
import { fleetProblems, type Problem } from "../fleet/readiness.ts";
import { stanceOf } from "../fleet/stance.ts";
import { wrapProblems, wrapWarnings, writable } from "../fleet/wrap_limit.ts";
import type { Capability } from "../providers/provider.ts";
import { driftProblems, unledRotation } from "../status/health.ts";
import { strayProblems } from "../status/strays.ts";
import { waysOn } from "../status/ways_on.ts";
import { audited } from "../store/audit_log.ts";
import { type CensusRow, takeCensus } from "../store/census.ts";
import type { RotationDoc, VersionDoc } from "../store/documents.ts";
import { readFields } from "../store/fields.ts";
import { type Member, readRoster } from "../store/heartbeats.ts";
import { type KekState, readState } from "../store/state.ts";
import { isOpen } from "../store/state_rules.ts";
import { serverNow } from "../store/store.ts";
import { markBackupVerified } from "../store/versions.ts";
import type { Context } from "./context.ts";

/** `kek verify`: reads everything, changes nothing (but the mark that a backup was proved). */

export interface Verification {
  ready: boolean;
  target: number | undefined;
  active: number | undefined;
  processes: Member[];
  census: CensusRow[];
  problems: Problem[];
  /** What is no problem yet. */
  warnings: Problem[];
  /** The rotation that is open. */
  rotation: RotationDoc | undefined;
  /** What the provider found when it tried itself out. */
  capabilities: Capability[];
}

/** Is every process ready for the target? */
export async function verifyTarget(context: Context, target: number): Promise<Verification> {
  const { store, config, provider } = context;
  const [state, roster] = await Promise.all([readState(store), readRoster(store)]);
  const active = activeOf(state);
  const doc = state.versions.find((version) => version._id === target);
  const problems: Problem[] = [];
  if (doc === undefined) {
    problems.push({
      code: "target",
      message: `KEK version ${target} is not known: no process of the fleet holds it`,
      hint: `${provider.howToGive(target, false)}; then verify again`,
    });
  } else if (state.rotation !== undefined && isOpen(state.rotation) && state.rotation.to !== target) {
    const { from, to, phase } = state.rotation;
    problems.push({
      code: "rotation",
      message: `a rotation ${from} → ${to} is open (phase ${phase})`,
      hint: waysOn(state.rotation),
    });
  } else if (doc.state === "destroyed") {
    problems.push({
      code: "target",
      message: `KEK version ${target} was destroyed`,
      hint: "use a new number: none is ever used again",
    });
  }
  const wanted = doc === undefined ? [] : [doc];
  // Who shares the token with the fleet sees by it whether a rotation could begin, or a copy of it be relied on.
  if (provider.staging === "by_init" && doc !== undefined && doc.state !== "destroyed")
    problems.push(...(await canaryProblems(context, state, [...new Set([...keysInUse(state), doc])])));
  problems.push(
    ...fleetProblems(roster, { provider: provider.name, active, target, declaredMatters: true, times: config.fleet }),
    ...wrapProblems(wanted),
  );
  return {
    ready: problems.length === 0,
    target,
    active,
    processes: roster,
    census: [],
    problems,
    warnings: wrapWarnings(wanted),
    rotation: openOf(state),
    capabilities: await provider.probe(),
  };
}

/** The whole install's health: canaries, census, strays, drift, fences. */
export async function verifyInstall(context: Context): Promise<Verification> {
  const { store, config, provider } = context;
  const [state, roster, fields] = await Promise.all([readState(store), readRoster(store), readFields(store)]);
  const census = await takeCensus(store, fields);
  const stance = stanceOf(state.versions, state.rotation);
  const problems: Problem[] = [
    ...(await canaryProblems(context, state, keysInUse(state))),
    ...fleetProblems(roster, {
      provider: provider.name,
      active: stance?.write,
      target: undefined,
      declaredMatters: false,
      times: config.fleet,
    }),
    ...driftProblems(roster, state),
    ...wrapProblems(writable(state.versions, state.rotation)),
  ];
  if (stance === undefined) {
    problems.push({
      code: "target",
      message: "no KEK version is active",
      hint: "start the service: its first process activates the first version",
    });
  } else {
    const { rotation } = state;
    const open = rotation !== undefined && isOpen(rotation);
    const [from, to] = open ? [rotation.from, rotation.to] : [stance.write, stance.write];
    problems.push(...strayProblems(census, state.versions, from, to));
    problems.push(...unledRotation(rotation, await serverNow(store)));
  }
  for (const version of state.rotation?.fence.versions ?? []) {
    for (const collection of await unfencedCollections(store, fields, version)) {
      if (state.rotation?.fence.unfenced?.includes(collection)) continue;
      problems.push({
        code: "fence",
        message: `${collection} is not fenced against KEK version ${version}`,
        hint: "a running process sets it again by itself within its lease; look at its log if it does not",
      });
    }
  }
  return {
    ready: problems.length === 0,
    target: undefined,
    active: activeOf(state),
    processes: roster,
    census,
    problems,
    warnings: wrapWarnings(writable(state.versions, state.rotation)),
    rotation: openOf(state),
    capabilities: await provider.probe(),
  };
}

/**
 * Proves that a copy of the secrets opens the canary of every version in use, and notes it for `--require-backup`.
 * @returns the versions that the copy opens. @throws KekError `key_missing`, `key_mismatch`, naming the version.
 */
export async function verifyBackup(context: Context, file: string): Promise<number[]> {
  const { store, provider, install, auditor } = context;
  const copy = provider.overCopy(file);
  const proved: number[] = [];
  try {
    const { versions, rotation } = await readState(store);
    const held = await copy.available();
    const needed = writable(versions, rotation);
    for (const doc of versions.filter(({ state }) => state !== "destroyed")) {
      // A version that was left need not be in the copy; one that is there is proved, for the way back to it.
      if (!held.includes(doc._id) && !needed.includes(doc)) continue;
      if (!held.includes(doc._id)) throw notInCopy(file, doc._id);
      await loadProved(copy, install.install_id, doc);
      proved.push(doc._id);
    }
  } finally {
    await copy.close();
  }
  await audited(store, auditor, async (session) => {
    for (const version of proved) await markBackupVerified(store, session, version);
    return [{ event: "version.backup_verified", data: { versions: proved }, result: undefined }];
  });
  return proved;
}

// ---------------------------------------------------------------------------------------------------------------------

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
  const held = await provider.available();
  if (provider.staging === "by_init") {
    const readable = stanceOf(state.versions, state.rotation)?.readable ?? [];
    for (const { _id: version, state: use } of needed.filter((doc) => !held.includes(doc._id))) {
      const why = readable.includes(version)
        ? "which records need"
        : use === "retired"
          ? "which a way back would need"
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
      await loadProved(provider, install.install_id, doc);
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      problems.push({ code: "canary", message: `this command: ${thrown.message}`, hint: thrown.hint });
    }
  }
  return problems;
}

/** What a whole backup of the keys must open: what records are under, and what is to be written under. */
function keysInUse({ versions, rotation }: KekState): VersionDoc[] {
  const readable = stanceOf(versions, rotation)?.readable ?? [];
  const wanted = writable(versions, rotation);
  return versions.filter((doc) => readable.includes(doc._id) || wanted.includes(doc));
}
