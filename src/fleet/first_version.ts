import { KekError } from "../errors/errors.ts";
import type { VersionDoc } from "../protocol/documents.ts";
import type { Provider } from "../providers/provider.ts";
import type { Auditor } from "../store/audit_log.ts";
import { type KekState, readState } from "../store/state.ts";
import type { Store } from "../store/store.ts";
import { activateFirst } from "../store/versions.ts";
import { loadVerified, stageUnknown } from "./key_loader.ts";

/**
 * With which version a fresh install begins: the declared one, or the only one there is.
 * @param known versions that MongoDB knows. A token is asked for those, and not for all its keys.
 */
export async function firstVersion(
  provider: Provider,
  declared: number | undefined,
  known: number[] = [],
): Promise<number | undefined> {
  const asked = declared === undefined ? known : [...known, declared];
  const held = [...new Set([...(await provider.held()), ...(await provider.available(asked))])];
  if (declared !== undefined) return held.includes(declared) ? declared : undefined;
  return held.length === 1 ? held[0] : undefined;
}

/**
 * A fresh install: its first version is made known, verified, and only then active. In no session of the caller's: what is
 * written here is written in others.
 * @throws KekError when it cannot begin: see `nothingActive`, and `key_mismatch` when another process's key came first.
 */
export async function beginInstall(
  { store, auditor, installId }: { store: Store; auditor: Auditor; installId: string },
  provider: Provider,
  declared: number | undefined,
  { versions }: KekState,
): Promise<KekState> {
  const first = await firstVersion(
    provider,
    declared,
    versions.map(({ _id }) => _id),
  );
  if (first === undefined) throw nothingActive(provider, declared, versions);
  await stageUnknown(store, { auditor, provider, installId, known: versions });
  const doc = (await readState(store)).versions.find((version) => version._id === first);
  if (doc !== undefined) await loadVerified(provider, installId, doc);
  await provider.release(first);
  await activateFirst(store, auditor, first);
  return await readState(store);
}

/**
 * Why a fresh install cannot begin.
 * @param versions those that MongoDB knows: another process may have staged some.
 */
export function nothingActive(
  provider: Provider,
  declared: number | undefined,
  versions: Pick<VersionDoc, "_id">[] = [],
): KekError {
  const known = (version: number) => versions.some(({ _id }) => _id === version);
  if (declared === undefined) {
    return new KekError(
      "config_invalid",
      "a fresh install needs one KEK, and to know which: CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION is not set",
      `set CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=1, and ${provider.howToGive(1, known(1))}`,
    );
  }
  return new KekError(
    "key_missing",
    `no key for KEK version ${declared}, which CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION declares`,
    `${provider.howToGive(declared, known(declared))}; or declare another version`,
  );
}
