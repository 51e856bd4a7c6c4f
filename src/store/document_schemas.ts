import { EJSON } from "bson";
import * as v from "valibot";
import type { VersionDoc } from "../protocol/documents.ts";
import { isOpen } from "../protocol/phases.ts";
import { fieldFault } from "./field_names.ts";

/** What each stored document must look like: schemas of docs/format.md. Members that are not named here pass. */

const NEWEST_FORMAT = 1;

const MAX_VERSION = 2_147_483_647;

const whole = (least: number, most = Number.MAX_SAFE_INTEGER) =>
  v.pipe(
    v.number("is not a number"),
    v.integer("is not a whole number"),
    v.minValue(least, `is less than ${least}`),
    v.maxValue(most, `is more than ${most}`),
  );

const oneOf = <const T extends string[]>(...words: T) => v.pipe(v.string("is not text"), v.picklist(words));

const numberOf = <const T extends number[]>(least: number, ...known: T) => v.pipe(whole(least), v.picklist(known));

const text = v.string("is not text");

const name = v.pipe(text, v.nonEmpty("is empty"));

const time = v.date("is not a time");

const version = whole(1, MAX_VERSION);

const bytes = (length?: number) =>
  v.custom<VersionDoc["canary"]>(
    (value) => {
      const found = value as Partial<VersionDoc["canary"]> | null | undefined;
      if (found?._bsontype !== "Binary" || found.sub_type !== 0 || !(found.buffer instanceof Uint8Array)) return false;
      return length === undefined || found.buffer.length === length;
    },
    `is not BinData of subtype 0${length === undefined ? "" : ` and ${length} bytes`}`,
  );

const list = <T extends v.GenericSchema>(of: T) => v.array(of, "is not a list");

const document = <T extends v.ObjectEntries>(members: T) => v.looseObject(members, "is not a subdocument");

const stored = <T extends v.ObjectEntries>(members: T) =>
  document({ ...members, format: v.optional(numberOf(1, NEWEST_FORMAT)) });

export const INSTALL = stored({
  provider: oneOf("env", "pkcs11"),
  install_id: v.pipe(text, v.uuid("is not a UUID")),
  locked_at: time,
  locked_by: name,
});

export const VERSION = stored({
  _id: version,
  provider: oneOf("env", "pkcs11"),
  state: oneOf("staged", "active", "retired", "destroyed"),
  canary: bytes(60),
  canary_digest: bytes(32),
  key_label: v.optional(text),
  key_id: v.optional(bytes()),
  mechanism: v.optional(text),
  wraps: whole(0),
  staged_at: time,
  activated_at: v.optional(time),
  first_activated_at: v.optional(time),
  retired_at: v.optional(time),
  destroyed_at: v.optional(time),
  backup_verified_at: v.optional(time),
});

export const FIELD = v.pipe(
  stored({ _id: text, collection: text, path: text }),
  v.check(
    ({ _id, collection, path }) => _id === `${collection}:${path}`,
    "its _id is not its collection and path with a colon between",
  ),
  v.rawCheck(({ dataset, addIssue }) => {
    const fault = dataset.typed ? fieldFault(dataset.value) : undefined;
    if (fault !== undefined) addIssue({ message: fault });
  }),
);

export const HEARTBEAT = stored({
  _id: name,
  role: name,
  host: text,
  pid: whole(0),
  instance_name: text,
  provider: oneOf("env", "pkcs11"),
  loaded: list(version),
  available: v.optional(list(version)),
  problems: v.optional(list(document({ version, reason: oneOf("missing", "wrong_key", "unreadable") }))),
  key_trouble: v.optional(v.nullable(text)),
  current_version: v.nullable(version),
  write_version: v.nullable(version),
  acked: v.nullable(document({ rotation: v.nullable(whole(1)), epoch: whole(0), phase: numberOf(0, 0, 1, 2, 3) })),
  fleet: v.optional(document({ beat_ms: whole(1), lease_ms: whole(1), eviction_ms: whole(1), drain_ms: whole(0) })),
  started_at: time,
  updated_at: time,
});

export const CLAIM = stored({ _id: name, owner: name, expires_at: time });

const REFUSAL = document({ at: time, host: text, from: text, changed_at: v.nullable(time), code: whole(0) });

export const LOGIN = stored({
  _id: name,
  claim: v.optional(v.nullable(document({ owner: name, host: text, expires_at: time }))),
  refused: v.optional(v.nullable(REFUSAL)),
  refusals: list(REFUSAL),
});

export const IMPORT = stored({
  _id: oneOf("import"),
  archive_id: v.pipe(text, v.uuid("is not a UUID")),
  from_install: v.pipe(text, v.uuid("is not a UUID")),
  state: oneOf("running", "completed"),
  started_at: time,
  completed_at: v.optional(time),
});

/** The mac says whether it is genuine, but can be computed only of these types. */
export const AUDIT_ENTRY = stored({
  seq: whole(1),
  at: time,
  actor: text,
  event: text,
  data: document({}),
  prev: text,
  mac: text,
});

/** A collection's validator as `freezeOptions` wrote it. */
const frozen = v.pipe(
  text,
  v.check((value) => {
    try {
      const options = EJSON.parse(value, { relaxed: false }) as { validator?: unknown } | null;
      const parts = [options, options?.validator ?? {}];
      // A number is an object here, with its BSON type in it.
      return parts.every(
        (part) => typeof part === "object" && part !== null && !Array.isArray(part) && !("_bsontype" in part),
      );
    } catch {
      return false;
    }
  }, "is not a validator as extended JSON"),
);

/** Where a rotation stands among the others. */
export const ROTATION_PLACE = document({ _id: whole(1), epoch: whole(1) });

export const ROTATION = v.pipe(
  stored({
    _id: whole(1),
    open: v.optional(v.literal(true, "is not true")),
    from: version,
    to: version,
    phase: numberOf(1, 1, 2, 3),
    epoch: whole(1),
    state: oneOf("running", "cancelled", "completed", "reverted"),
    lease: v.nullable(document({ owner: v.nullable(text), token: whole(1), expires_at: time })),
    started_at: time,
    started_by: text,
    phase_times: v.record(text, time, "is not a subdocument"),
    ended_at: v.optional(time),
    fields: list(
      document({ field: text, done: whole(0), remaining: whole(0), failed: whole(0), uuid: v.optional(text) }),
    ),
    failed: list(document({ field: text, id: text, reason: text })),
    pace: v.optional(list(document({ at: time, done: whole(0) }))),
    fence: document({
      versions: list(version),
      collections: list(document({ collection: name, own: frozen, expected: frozen })),
      unfenced: v.optional(list(text)),
    }),
    reverses: v.optional(whole(1)),
    repairs: v.optional(v.literal(true)),
  }),
  v.check(({ from, to }) => from !== to, "it leads from a version to the same one"),
  v.check((doc) => doc.state !== "completed" || doc.phase === 3, "it is completed, and its phase is not 3"),
  v.check((doc) => doc.state !== "cancelled" || doc.phase < 3, "it is cancelled, and its phase is 3"),
  v.check((doc) => isOpen(doc) || doc.open === undefined, "it has ended, and is marked as open"),
  v.check((doc) => !isOpen(doc) || doc.open === true, "it has not ended, and is not marked as open"),
  v.check((doc) => doc.open === undefined || doc.lease !== null, "it is open and has no lease"),
);
