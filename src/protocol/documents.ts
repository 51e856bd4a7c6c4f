import type { Binary } from "bson";
import type { ProviderName } from "../config/config.ts";

/** What is stored, as types: the contract of docs/format.md. Names are the database's. */

export interface InstallDoc {
  _id: "kek_install";
  provider: ProviderName;
  install_id: string;
  locked_at: Date;
  locked_by: "service" | "pkcs11-init" | "install";
}

export type VersionState = "staged" | "active" | "retired" | "destroyed";

export interface VersionDoc {
  /** The version's number. */
  _id: number;
  provider: ProviderName;
  state: VersionState;
  canary: Binary;
  canary_digest: Binary;
  /** Of a key in a token: CKA_LABEL, CKA_ID and the mechanism it wraps by. */
  key_label?: string;
  key_id?: Binary;
  mechanism?: string;
  /** Reserved in blocks before use: it never under-counts. */
  wraps: number;
  staged_at: Date;
  staged_by?: string;
  activated_at?: Date;
  /** Of a version that became active more than once. */
  first_activated_at?: Date;
  retired_at?: Date;
  destroyed_at?: Date;
  /** When a copy of the secrets last opened this canary (`kek verify --backup`). */
  backup_verified_at?: Date;
}

export interface FieldDoc {
  /** `<collection>:<path>` */
  _id: string;
  collection: string;
  path: string;
  /** Left out where an operator registered a field of a foreign writer. */
  registered_by?: string;
}

export type Phase = 1 | 2 | 3;
export type RotationState = "running" | "cancelled" | "completed" | "reverted";

export interface Lease {
  /** Null when it was given back. */
  owner: string | null;
  /** The fencing token: grows with every owner. */
  token: number;
  expires_at: Date;
}

export interface FieldCount {
  /** `<collection>:<path>` */
  field: string;
  done: number;
  remaining: number;
  failed: number;
  /** The collection's own identity when it was first counted: another one of its name holds other records. */
  uuid?: string;
}

export interface FailedRecord {
  field: string;
  /** The record's _id as canonical extended JSON. */
  id: string;
  reason: string;
}

/** How many records were done at a moment, by server time. */
export interface PacePoint {
  at: Date;
  done: number;
}

/** A collection's validator as `listCollections` tells it; absent members are MongoDB's defaults. */
export interface ValidatorOptions {
  validator?: Record<string, unknown>;
  validationLevel?: string;
  validationAction?: string;
}

export interface FencedCollection {
  readonly collection: string;
  /** What the collection had, restored exactly when the fence is lifted. As extended JSON: it may hold `$` keys. */
  readonly own: string;
  /** What it is to have while the fence is up. */
  readonly expected: string;
}

/** Read only: whoever changes it compares the stored one with the object that was recorded. */
export interface FenceRecord {
  /** The versions that MongoDB rejects. */
  readonly versions: number[];
  readonly collections: readonly FencedCollection[];
  /** Collections that could not be fenced, as MongoDB or their own rules would have it. */
  readonly unfenced?: string[];
}

export interface RotationDoc {
  /** 1, 2, 3, … in the order in which rotations were started. */
  _id: number;
  /** Present while processes must follow this rotation; a unique index lets one document have it. */
  open?: true;
  from: number;
  to: number;
  phase: Phase;
  /** Grows with every change of phase or state. */
  epoch: number;
  state: RotationState;
  lease: Lease | null;
  started_at: Date;
  started_by: string;
  phase_times: { [phase: string]: Date };
  ended_at?: Date;
  fields: FieldCount[];
  failed: FailedRecord[];
  /** How the rewrap went, for people: thinned as it grows (`status/rewrap_rate.ts`). */
  pace?: PacePoint[];
  fence: FenceRecord;
  /** The unfinished rotation whose reverse rotation this one is. */
  reverses?: number;
  /** Present when it repairs stale envelopes: it begins in phase 2, since no write version changes. */
  repairs?: true;
}

/** The fleet's times as a process announces them. */
export interface AnnouncedTimes {
  beat_ms: number;
  lease_ms: number;
  eviction_ms: number;
  drain_ms: number;
}

export interface KeyProblem {
  version: number;
  reason: "missing" | "wrong_key" | "unreadable";
}

export type Role = "api" | "worker" | "library";

export interface Acked {
  rotation: number | null;
  epoch: number;
  phase: 0 | Phase;
}

export interface HeartbeatDoc {
  _id: string;
  /** A `Role`, or one that a later release knows: nothing is decided by it. */
  role: string;
  host: string;
  pid: number;
  instance_name: string;
  provider: ProviderName;
  loaded: number[];
  /** Proved, but not held: retired versions that this process could load for a rotation back. */
  available?: number[];
  problems?: KeyProblem[];
  /** Why the key that it writes under cannot be used now, though it holds it: a token that is unavailable. */
  key_trouble?: string | null;
  current_version: number | null;
  write_version: number | null;
  acked: Acked | null;
  fleet?: AnnouncedTimes;
  started_at: Date;
  updated_at: Date;
}

/** Who is making the key of a version just now. */
export interface Claim {
  /** What is claimed. */
  _id: string;
  owner: string;
  expires_at: Date;
}

/** Who sends a PIN to a token just now, and which sources of PINs it refused. Nothing that was made of a PIN. */
export interface LoginDoc {
  /** The token's label. */
  _id: string;
  claim?: { owner: string; host: string; expires_at: Date } | null;
  /** The last refusal; null since a PIN was accepted. */
  refused?: LoginRefusal | null;
  /** The last refusal of each source of a PIN. */
  refusals: LoginRefusal[];
}

export interface LoginRefusal {
  at: Date;
  host: string;
  /** Where the PIN was from, in words. */
  from: string;
  /** When that file had last changed; null where the PIN is in no file. */
  changed_at: Date | null;
  code: number;
}

/** The archive that this install's secrets came from. */
export interface ImportDoc {
  _id: "import";
  archive_id: string;
  /** The install that it was exported from. */
  from_install: string;
  state: "running" | "completed";
  started_at: Date;
  completed_at?: Date;
}
