import { Buffer } from "node:buffer";
import { randomFillSync } from "node:crypto";
import { freshIv, IV_BYTES, KEY_BYTES, TAG_BYTES } from "../../envelope/gcm.ts";
import { KekError } from "../../errors/errors.ts";
import type { Capability } from "../provider.ts";
import { CKF, CKM_AES_GCM, CKM_AES_KEY_GEN } from "./constants.ts";
import type { Handle } from "./cryptoki.ts";
import { attributeMismatches, keyTemplate, readKey } from "./key_object.ts";
import type { OpenSession } from "./session.ts";
import { TokenFault } from "./token_fault.ts";

/**
 * What a token can do, tried out and not believed: a session key made as a KEK would be, a round trip with AAD, a tampered
 * wrap. Nothing is left in the token.
 */

export interface ProbeOptions {
  ownIvs: boolean;
  /** A key to try with, when this user may not make one. */
  existing: Handle | undefined;
  /** How many sessions this process will use at most. */
  sessions: number;
}

/** @returns one row a capability; a row that is not ok is fatal. */
export function probeToken(open: OpenSession, options: ProbeOptions): Capability[] {
  const { module } = open;
  const token = module.token(open.token.slot);
  const rows: Capability[] = [
    ok("token", `"${token.label}", ${token.manufacturer} ${token.model}, serial ${token.serial}`),
    pinRow(token.flags),
  ];
  const gcm = module.mechanism(token.slot, CKM_AES_GCM);
  if (gcm === undefined) {
    return [
      ...rows,
      lacks("CKM_AES_GCM", "not there", "no wrap can be made without it: use another token or firmware"),
    ];
  }
  rows.push(
    (gcm.flags & CKF.encrypt) !== 0 && (gcm.flags & CKF.decrypt) !== 0
      ? ok("CKM_AES_GCM", `encrypts and decrypts, keys of ${gcm.minKeyBytes} to ${gcm.maxKeyBytes} bytes`)
      : lacks("CKM_AES_GCM", "not for both encryption and decryption", "use another token or firmware"),
  );
  const generation = module.mechanism(token.slot, CKM_AES_KEY_GEN);
  if (generation === undefined) {
    rows.push(lacks("CKM_AES_KEY_GEN", "not there", "a KEK must be born in the token: use another token or firmware"));
  }
  const trial = trialKey(open, rows, options);
  if (trial !== undefined) {
    try {
      rows.push(...roundTrip(open, trial.key, options.ownIvs));
    } finally {
      if (trial.made) module.destroy(open.handle, trial.key);
    }
  }
  const most = token.maxSessions === undefined ? "no limit told" : `at most ${token.maxSessions} a process`;
  rows.push(ok("sessions", `${most}; up to ${options.sessions} are used`));
  return rows;
}

/** @throws KekError `hsm_unfit` naming every lack. */
export function refuseUnsupported(tokenLabel: string, rows: Capability[]): void {
  const lacking = rows.filter((row) => !row.ok);
  const [first] = lacking;
  if (first === undefined) return;
  throw new KekError(
    "hsm_unfit",
    `token "${tokenLabel}" cannot hold KEKs: ${lacking.map((row) => `${row.what} ${row.found}`).join("; ")}`,
    first.hint ?? "see docs/hsm for tokens that are known to do it",
  );
}

// ---------------------------------------------------------------------------------------------------------------------

const ROOM = 128;
const AAD = Buffer.from("certautopilot/probe/1");

function ok(what: string, found: string): Capability {
  return { what, found, ok: true };
}

function lacks(what: string, found: string, hint: string): Capability {
  return { what, found, ok: false, hint };
}

function pinRow(flags: number): Capability {
  if ((flags & CKF.userPinFinalTry) !== 0) return ok("PIN", "accepted; one wrong one will lock it now");
  if ((flags & CKF.userPinCountLow) !== 0) return ok("PIN", "accepted; a wrong one was tried before");
  return ok("PIN", "accepted");
}

/** A key as a KEK would be made, but gone with the session. A user who may use keys and not make them gets one that is there. */
function trialKey(
  { module, handle }: OpenSession,
  rows: Capability[],
  { existing }: ProbeOptions,
): { key: Handle; made: boolean } | undefined {
  try {
    const template = keyTemplate("certautopilot-probe", randomFillSync(Buffer.alloc(16)), false);
    const key = module.generateAesKey(handle, template);
    const wrong = attributeMismatches(readKey(module, handle, key));
    rows.push(
      wrong.length === 0
        ? ok("key generation", "in the token; sensitive, never extractable, local")
        : lacks("key generation", `gives keys of which ${wrong.join(", ")}`, "a KEK must never leave the token"),
    );
    return { key, made: true };
  } catch (thrown) {
    if (!(thrown instanceof TokenFault) || thrown.call !== "C_GenerateKey" || thrown.kind === "lost") throw thrown;
    // A hiccup is no refusal: it is tried again.
    if (existing === undefined && thrown.kind !== "unsupported") throw thrown;
    if (existing === undefined) {
      rows.push(lacks("key generation", `refused (${thrown.message})`, "log in as a user who may make keys"));
      return undefined;
    }
    rows.push(ok("key generation", `refused (${thrown.message}): pkcs11-init needs a user who may`));
    return { key: existing, made: false };
  }
}

function roundTrip({ module, handle }: OpenSession, key: Handle, ownIvs: boolean): Capability[] {
  const secret = randomFillSync(Buffer.alloc(KEY_BYTES));
  const given = ownIvs ? Buffer.alloc(IV_BYTES) : freshIv();
  const iv = Buffer.from(given);
  const room = Buffer.alloc(ROOM);
  let length: number;
  try {
    length = module.encrypt(handle, key, iv, AAD, secret, room);
  } catch (thrown) {
    if (!(thrown instanceof TokenFault) || thrown.kind !== "unsupported") throw thrown;
    const hint = ownIvs
      ? "the token takes no IV of zeros: take use_gcm_iv_from_hsm out of the configuration"
      : "an HSM that insists on making the IV needs use_gcm_iv_from_hsm: true (AWS CloudHSM does)";
    return [lacks("round trip with AAD", `refused (${thrown.message})`, hint)];
  }
  const sealed = Buffer.from(room.subarray(0, length));
  const rows: Capability[] = [];
  const made = !iv.equals(given);
  if (iv.every((byte) => byte === 0)) {
    return [lacks("IVs", "are not made by the HSM", "take use_gcm_iv_from_hsm out of the configuration")];
  }
  rows.push(ok("IVs", made ? "made by the HSM" : "taken from this program, 96 random bits each"));
  if (sealed.length !== KEY_BYTES + TAG_BYTES) {
    const want = KEY_BYTES + TAG_BYTES;
    return [...rows, lacks("round trip with AAD", `gives ${sealed.length} bytes, not ${want}`, "use another token")];
  }
  const gives = (bytes: Buffer, aad: Buffer) => {
    try {
      const opened = module.decrypt(handle, key, iv, aad, bytes, room);
      return room.subarray(0, opened).equals(secret);
    } finally {
      room.fill(0);
    }
  };
  const opens = (bytes: Buffer, aad: Buffer) => {
    try {
      return gives(bytes, aad);
    } catch (thrown) {
      if (!(thrown instanceof TokenFault) || thrown.call !== "C_Decrypt" || thrown.kind === "lost") throw thrown;
      return false;
    }
  };
  const flipped = (at: number) => {
    const bytes = Buffer.from(sealed);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    return bytes;
  };
  rows.push(
    gives(sealed, AAD)
      ? ok("round trip with AAD", "gives back what was wrapped")
      : lacks("round trip with AAD", "does not give back what was wrapped", "use another token"),
  );
  const careless = [
    opens(flipped(0), AAD) ? "ciphertext" : undefined,
    opens(flipped(sealed.length - 1), AAD) ? "tag" : undefined,
    opens(sealed, Buffer.from("certautopilot/probe/2")) ? "AAD" : undefined,
  ].filter((part) => part !== undefined);
  rows.push(
    careless.length === 0
      ? ok("tampered wraps", "are refused: ciphertext, tag, AAD")
      : lacks("tampered wraps", `are opened with another ${careless.join(", ")}`, "do not use this token"),
  );
  secret.fill(0);
  return rows;
}
