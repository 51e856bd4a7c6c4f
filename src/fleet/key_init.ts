import { setTimeout as sleep } from "node:timers/promises";
import type { Config } from "../config/config.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError, rfc3339 } from "../errors/errors.ts";
import type { Claim, InstallDoc, VersionDoc } from "../protocol/documents.ts";
import { keyCanaryOf, makeCanary } from "../providers/canary.ts";
import type { KeyDescription } from "../providers/provider.ts";
import { type AskPin, checkLock, openToken, type Token } from "../providers/registry.ts";
import { type Auditor, checkSecret } from "../store/audit_log.ts";
import { dropClaim, readClaim, takeClaim } from "../store/claims.ts";
import { lockInstall, readInstall } from "../store/install.ts";
import { LoginRegister } from "../store/logins.ts";
import type { Store } from "../store/store.ts";
import { canaryOf, readVersions, stageVersion } from "../store/versions.ts";
import { loadVerified } from "./key_loader.ts";
import { ensureCollections } from "./open_install.ts";

/**
 * `kek pkcs11-init`: a KEK is born in the token, and MongoDB comes to know it. In this order, so that it can die anywhere and
 * be run again: lock compared, token opened, lock written, key made under an id that says whose it is, canary, staged.
 */

export interface Initialized {
  version: number;
  state: VersionDoc["state"];
  key: KeyDescription;
  /** Whether it was there already, and has only been verified. */
  already: boolean;
  lockedNow: boolean;
}

/** @throws KekError `provider_mismatch` before the module is loaded; what the token lacks; `refused`, `key_missing`. */
export async function initKey(
  { store, config, auditor }: { store: Store; config: Config; auditor: Auditor },
  version: number,
  askPin: AskPin,
  tell: (message: string) => void,
): Promise<Initialized> {
  const found = await readInstall(store);
  refuseOtherLock(found);
  if (config.encryption.provider !== "pkcs11") throw notConfigured(found);
  const token = await openToken(config, askPin, found && new LoginRegister(store, true));
  try {
    const there = found ?? (await stillFresh(store, token, version));
    await ensureCollections(store);
    const install = there ?? (await lockInstall(store, auditor, "pkcs11", "pkcs11-init"));
    refuseOtherLock(install);
    const made = await makeOrProve(store, { config, auditor, token, install, version, tell });
    return { ...made, lockedNow: there === undefined };
  } finally {
    await token.close();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** On a fresh database a key of the version's name is somebody else's, unless another host has locked it meanwhile. */
async function stillFresh(store: Store, token: Token, version: number): Promise<InstallDoc | undefined> {
  try {
    await token.refuseTaken(version);
    return await readInstall(store);
  } catch (thrown) {
    const install = await readInstall(store);
    if (install === undefined) throw thrown;
    return install;
  }
}

type Made = Omit<Initialized, "lockedNow">;

/** One host at a time; who comes second finds the key. */
async function makeOrProve(
  store: Store,
  {
    config,
    auditor,
    token,
    install,
    version,
    tell,
  }: {
    config: Config;
    auditor: Auditor;
    token: Token;
    install: InstallDoc;
    version: number;
    tell: (message: string) => void;
  },
): Promise<Made> {
  const { install_id: installId } = install;
  const doc = await known(store, version);
  if (doc !== undefined) return await verify(store, token, installId, doc);
  await checkSecret(store, auditor);
  const claim = await waitForClaim(store, `pkcs11-init ${version}`, config.fleet.leaseMs, tell);
  if (import.meta.crashPoints) crashPoint("claim.taken");
  let late = false;
  try {
    const meanwhile = await known(store, version);
    if (meanwhile !== undefined) return await verify(store, token, installId, meanwhile);
    const key = await token.make(version, installId).catch((thrown) => {
      // The token may still do what it was asked: nobody else begins before the claim has run out.
      late = thrown instanceof KekError && thrown.code === "hsm_unavailable";
      throw thrown;
    });
    if (import.meta.crashPoints) crashPoint("key.made");
    await token.load(version);
    const canary = await makeCanary(token, installId, version);
    if (import.meta.crashPoints) crashPoint("canary.made");
    token.release(version);
    await stageVersion(store, { auditor, version, provider: "pkcs11", canary, key });
    const staged = await known(store, version);
    if (staged === undefined)
      throw new KekError("refused", `KEK version ${version} was removed meanwhile`, "run it again");
    return { ...(await verify(store, token, installId, staged)), already: false };
  } finally {
    if (!late) await dropClaim(store, claim);
  }
}

/** A version that MongoDB knows: its key must be there, and the only one of its name. */
async function verify(store: Store, token: Token, installId: string, doc: VersionDoc): Promise<Made> {
  const version = doc._id;
  if (doc.state === "destroyed") {
    const next = Math.max(...(await readVersions(store)).map(({ _id }) => _id)) + 1;
    throw new KekError(
      "refused",
      `KEK version ${version} was destroyed: a number is never used again`,
      `make the next one: certautopilot kek pkcs11-init --version=${next}`,
    );
  }
  const recorded = doc.key_id === undefined ? undefined : Buffer.from(doc.key_id.buffer).toString("hex");
  const proof = keyCanaryOf(canaryOf(doc), installId, token.name, version);
  if (recorded !== undefined) await token.tidy(version, installId, recorded, proof);
  await loadVerified(token, installId, doc);
  const key = await token.describe(version);
  token.release(version);
  if (key === undefined)
    throw new KekError("key_missing", `the key of KEK version ${version} is gone`, "look at the token");
  return { version, state: doc.state, key, already: true };
}

async function known(store: Store, version: number): Promise<VersionDoc | undefined> {
  return (await readVersions(store)).find((doc) => doc._id === version);
}

/** @throws KekError `refused` when it is claimed for longer than anybody claims it. */
async function waitForClaim(store: Store, name: string, forMs: number, tell: (message: string) => void) {
  const began = performance.now();
  for (let told = false; ; told = true) {
    const claim = await takeClaim(store, name, forMs);
    if (claim !== undefined) return claim;
    const theirs = await readClaim(store, name);
    if (theirs !== undefined && performance.now() - began > 2 * forMs) throw stillClaimed(theirs);
    if (!told) {
      const most = Math.ceil(forMs / 1000);
      tell(`another pkcs11-init of this version is at work, or was interrupted: waiting for it (at most ${most} s)`);
    }
    await sleep(200);
  }
}

function stillClaimed({ _id, owner, expires_at: until }: Claim): KekError {
  return new KekError(
    "refused",
    `kek_claims: "${_id}" is claimed by ${owner} until ${rfc3339(until)}: another pkcs11-init of this version is at work`,
    "let it end; if none runs anywhere, delete that document and run this again",
  );
}

/** A contract with scripts that match it, word for word. */
function refuseOtherLock(install: InstallDoc | undefined): void {
  if (install === undefined || install.provider === "pkcs11") return;
  const { provider, locked_at: lockedAt, locked_by: by } = install;
  throw new KekError(
    "provider_mismatch",
    `refusing to run: this database is locked for provider="${provider}" (since ${rfc3339(lockedAt)} by ${by}). pkcs11-init cannot run against a "${provider}"-locked installation.`,
    "to move to an HSM, install again against a fresh database and bring the data over; or point CERTAUTOPILOT_DATABASE_URI and _NAME at the right database",
  );
}

function notConfigured(install: InstallDoc | undefined): KekError {
  if (install !== undefined) checkLock({ provider: install.provider, lockedAt: install.locked_at }, "env");
  return new KekError(
    "config_invalid",
    'encryption.provider is "env": pkcs11-init makes keys for provider "pkcs11"',
    "set CERTAUTOPILOT_ENCRYPTION_PROVIDER=pkcs11 here and for every process of the fleet",
  );
}
