import { KekError } from "../errors/errors.ts";
import type { KeyProblem, VersionDoc } from "../protocol/documents.ts";
import { keyCanaryOf, makeCanary } from "../providers/canary.ts";
import type { Provider } from "../providers/provider.ts";
import type { Auditor } from "../store/audit_log.ts";
import type { Store } from "../store/store.ts";
import { canaryOf, stageVersion } from "../store/versions.ts";
import type { Keyring } from "./keyring.ts";

/** Loads keys and verifies each by its canary before anything is done with it. */

/** @throws KekError `key_missing`, `key_invalid`, `key_mismatch`. On any of them the version is not loaded. */
export async function loadVerified(
  provider: Provider,
  installId: string,
  doc: VersionDoc,
  waitMs?: number,
): Promise<void> {
  await provider.load(doc._id, keyCanaryOf(canaryOf(doc), installId, provider.name, doc._id), waitMs);
}

/** The versions that this provider holds, MongoDB does not know, and a process may make known. */
export async function unknownVersions(provider: Provider, known: VersionDoc[]): Promise<number[]> {
  if (provider.staging === "by_init") return [];
  const numbers = new Set(known.map((doc) => doc._id));
  return (await provider.held()).filter((version) => !numbers.has(version));
}

/** Inserts each of them as staged. @returns whether there was one. */
export async function stageUnknown(
  store: Store,
  {
    auditor,
    provider,
    installId,
    known,
  }: { auditor: Auditor; provider: Provider; installId: string; known: VersionDoc[] },
): Promise<boolean> {
  const unknown = await unknownVersions(provider, known);
  for (const version of unknown) {
    await provider.load(version);
    const canary = await makeCanary(provider, installId, version);
    await provider.release(version);
    await stageVersion(store, {
      auditor,
      version,
      provider: provider.name,
      canary,
      key: await provider.describe(version),
    });
  }
  return unknown.length > 0;
}

export interface KeyReport {
  problems: KeyProblem[];
  /** Retired versions that could be loaded for a rotation back. */
  available: number[];
  /** Why a version could not be loaded, for the process's own log and refusals. */
  reasons: Map<number, KekError>;
}

/** Why a version that the state needs is not held. */
export function lacks(version: number, report: KeyReport, provider: Pick<Provider, "howToGive">): KekError {
  const known = report.reasons.get(version) ?? report.reasons.get(UNREADABLE_SOURCE);
  if (known !== undefined) return known;
  return new KekError(
    "key_missing",
    `KEK version ${version} is needed and not held here`,
    provider.howToGive(version, true),
  );
}

/** In a report's reasons: the place that keys come from could not be read at all. */
const UNREADABLE_SOURCE = 0;

/**
 * A version that was forgotten, or forgotten and made again by somebody else, is another key under the same number: what is
 * held of it is given up, and verified again from its source.
 */
async function dropStrangers(keyring: Keyring, versions: VersionDoc[]): Promise<void> {
  for (const version of keyring.loaded) {
    const doc = versions.find((entry) => entry._id === version);
    if (doc === undefined || canaryText(doc) !== keyring.provedBy(version)) await keyring.drop(version);
  }
}

function canaryText(doc: VersionDoc): string {
  return Buffer.from(doc.canary.buffer).toString("hex");
}

/**
 * Loads what may be held, and finds out what else could be. A version's key is verified once for its canary: while it stays in
 * the keyring, its bytes cannot change.
 */
export class KeyLoader {
  readonly #installId: string;
  #waitMs: number | undefined;
  /** Retired versions verified and forgotten again, with the canary they were verified against. */
  readonly #provedBefore = new Map<number, string>();

  constructor(installId: string) {
    this.#installId = installId;
  }

  /** @param waitMs how long each key may take: no heartbeat waits longer for a token. Undefined at the start of a process. */
  async loadAll(keyring: Keyring, versions: VersionDoc[], hold: number[], waitMs?: number): Promise<KeyReport> {
    this.#waitMs = waitMs;
    const report: KeyReport = { problems: [], available: [], reasons: new Map() };
    await dropStrangers(keyring, versions);
    const retired = versions.filter(
      (doc) => doc.state === "retired" && !keyring.has(doc._id) && !hold.includes(doc._id),
    );
    const offered = retired.length > 0 ? await this.#offered(keyring.provider, retired, report) : [];
    for (const doc of versions) {
      const version = doc._id;
      if (keyring.has(version) || doc.state === "destroyed") continue;
      if (hold.includes(version)) {
        await this.#verify(keyring.provider, doc, report, () => keyring.add(version, canaryText(doc)));
      } else if (doc.state === "retired" && offered.includes(version)) {
        await this.#proveAndForget(keyring.provider, doc, report);
      }
    }
    return report;
  }

  async #proveAndForget(provider: Provider, doc: VersionDoc, report: KeyReport): Promise<void> {
    const canary = canaryText(doc);
    if (this.#provedBefore.get(doc._id) === canary) {
      report.available.push(doc._id);
      return;
    }
    await this.#verify(provider, doc, report, async () => {
      await provider.release(doc._id);
      this.#provedBefore.set(doc._id, canary);
      report.available.push(doc._id);
    });
  }

  async #verify(
    provider: Provider,
    doc: VersionDoc,
    report: KeyReport,
    verified: () => void | Promise<void>,
  ): Promise<void> {
    try {
      await loadVerified(provider, this.#installId, doc, this.#waitMs);
      await verified();
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      const reason =
        thrown.code === "key_mismatch" ? "wrong_key" : thrown.code === "key_missing" ? "missing" : "unreadable";
      report.problems.push({ version: doc._id, reason });
      report.reasons.set(doc._id, thrown);
    }
  }

  /** A secrets file that cannot be read for a moment costs nothing that is already held. */
  async #offered(provider: Provider, versions: VersionDoc[], report: KeyReport): Promise<number[]> {
    try {
      return await provider.available(
        versions.map(({ _id }) => _id),
        this.#waitMs,
      );
    } catch (thrown) {
      if (!(thrown instanceof KekError)) throw thrown;
      report.reasons.set(UNREADABLE_SOURCE, thrown);
      return [];
    }
  }
}
