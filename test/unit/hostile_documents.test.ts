import { expect, test } from "bun:test";
import { Binary, deserialize, Long, MinKey, ObjectId, serialize } from "bson";
import { canonicalJson, checkLink, GENESIS, link } from "../../src/audit/chain.ts";
import { KekError } from "../../src/errors/errors.ts";
import type { Phase, RotationState, VersionState } from "../../src/protocol/documents.ts";
import { type KeyPolicy, keyPolicyOf, rollbackIn } from "../../src/protocol/key_policy.ts";
import { contradiction } from "../../src/protocol/state_contradictions.ts";
import {
  auditEntryOf,
  claimOf,
  fieldOf,
  heartbeatOf,
  importOf,
  installOf,
  loginOf,
  rotationOf,
  versionOf,
} from "../../src/store/document_reader.ts";
import { fieldFault } from "../../src/store/field_names.ts";

/** What is stored beside the records, half-written, forged, or by a later release: named and refused, never guessed at. */

type Doc = Record<string, unknown>;
const NOW = new Date("2026-05-01T09:00:00.250Z");

const KINDS: Record<string, { read: (doc: unknown) => unknown; good: Doc; mayLack: string[] }> = {
  kek_install: {
    read: installOf,
    good: {
      _id: "kek_install",
      provider: "env",
      install_id: "2f4c1f0e-1111-4222-8333-444455556666",
      locked_at: NOW,
      locked_by: "service",
    },
    mayLack: ["_id"],
  },
  kek_versions: {
    read: versionOf,
    good: {
      _id: 2,
      provider: "env",
      state: "active",
      canary: new Binary(new Uint8Array(60), 0),
      canary_digest: new Binary(new Uint8Array(32), 0),
      wraps: 1000,
      staged_at: NOW,
      activated_at: NOW,
    },
    mayLack: ["activated_at"],
  },
  kek_fields: {
    read: fieldOf,
    good: { _id: "users:totp.seed", collection: "users", path: "totp.seed" },
    mayLack: [],
  },
  kek_rotations: {
    read: rotationOf,
    good: {
      _id: 3,
      open: true,
      from: 1,
      to: 2,
      phase: 2,
      epoch: 7,
      state: "running",
      lease: { owner: "cli host pid 1", token: 1, expires_at: NOW },
      started_at: NOW,
      started_by: "cli host pid 1",
      phase_times: { "1": NOW },
      fields: [{ field: "users:totp", done: 1, remaining: 2, failed: 0 }],
      failed: [],
      fence: { versions: [], collections: [{ collection: "users", own: "{}", expected: "{}" }] },
    },
    mayLack: [],
  },
  process_heartbeats: {
    read: heartbeatOf,
    good: {
      _id: "11111111-2222-4333-8444-555555555555",
      role: "api",
      host: "host-a",
      pid: 42,
      instance_name: "api-1",
      provider: "env",
      loaded: [1, 2],
      available: [],
      problems: [{ version: 2, reason: "missing" }],
      current_version: 2,
      write_version: 1,
      acked: { rotation: null, epoch: 0, phase: 0 },
      fleet: { beat_ms: 5000, lease_ms: 30_000, eviction_ms: 60_000, drain_ms: 0 },
      started_at: NOW,
      updated_at: NOW,
    },
    mayLack: ["available", "problems", "fleet"],
  },
  kek_claims: {
    read: claimOf,
    good: { _id: "pkcs11-init 2", owner: "somebody", expires_at: NOW },
    mayLack: [],
  },
  kek_logins: {
    read: loginOf,
    good: {
      _id: "certautopilot",
      claim: { owner: "somebody", host: "host-a", expires_at: NOW },
      refused: { at: NOW, host: "host-a", from: "the PIN file /etc/pin", changed_at: NOW, code: 160 },
      refusals: [{ at: NOW, host: "host-a", from: "the PIN file /etc/pin", changed_at: NOW, code: 160 }],
    },
    mayLack: ["claim", "refused"],
  },
  kek_imports: {
    read: importOf,
    good: {
      _id: "import",
      archive_id: "c7e5a5b0-41d4-4b1c-9a52-3d7a1c5a9f10",
      from_install: "c7e5a5b0-41d4-4b1c-9a52-3d7a1c5a9f11",
      state: "completed",
      started_at: NOW,
      completed_at: NOW,
    },
    mayLack: ["completed_at"],
  },
  audit_log: {
    read: auditEntryOf,
    good: { ...link("s", undefined, { at: NOW, actor: "a", event: "install.locked", data: {} }) },
    mayLack: [],
  },
};

/** As it would come from MongoDB. */
const stored = (doc: Doc) => deserialize(serialize(doc));

function refusalIn(kind: string, doc: Doc): KekError {
  try {
    KINDS[kind]?.read(stored(doc));
  } catch (thrown) {
    if (thrown instanceof KekError) return thrown;
    throw thrown;
  }
  throw new Error(`${kind} was read: ${JSON.stringify(doc)}`);
}

/** Every place in a document, as the members that lead to it. */
function places(value: unknown, at: string[] = []): string[][] {
  const inner = value instanceof Date || value instanceof Binary || typeof value !== "object" || value === null;
  const below = inner ? [] : Object.entries(value).flatMap(([name, member]) => places(member, [...at, name]));
  return at.length === 0 ? below : [at, ...below];
}

function changed(doc: Doc, [name, ...rest]: string[], to: unknown): Doc {
  const copy: Doc = Array.isArray(doc) ? ([...doc] as unknown as Doc) : { ...doc };
  if (rest.length > 0) copy[name as string] = changed(copy[name as string] as Doc, rest, to);
  else if (to === undefined) delete copy[name as string];
  else copy[name as string] = to;
  return copy;
}

const JUNK: unknown[] = [
  null,
  true,
  "",
  "junk\n\u001b[2J",
  -1,
  1.5,
  Number.NaN,
  2 ** 60,
  Long.fromString("9007199254740993"),
  new Date(8.64e15 + 1),
  new Binary(new Uint8Array(60), 4),
  new Binary(new Uint8Array(7), 0),
  new ObjectId("65a1b2c3d4e5f60718293a4b"),
  new MinKey(),
  [[]],
  { $gt: "" },
];

for (const [kind, { read, good, mayLack }] of Object.entries(KINDS)) {
  test(`${kind}: a whole document is read as it is, with members that nobody knows yet`, () => {
    for (const doc of [good, { ...good, format: 1 }, { ...good, colour: "blue", more: { a: [1] } }]) {
      const from = stored(doc);
      expect(read(from)).toBe(from as never);
    }
    for (const name of mayLack) read(stored(changed(good, [name], undefined)));
  });

  test(`${kind}: half-written, each member that is missing is named with its collection`, () => {
    for (const name of Object.keys(good).filter((member) => !mayLack.includes(member))) {
      const { code, message, hint, exit } = refusalIn(kind, changed(good, [name], undefined));
      expect([code, exit]).toEqual(["document_invalid", "refused"]);
      expect(message).toStartWith(`${kind}: `);
      // Without the mark an open rotation is called by what it means.
      expect(message).toContain(name === "open" ? "not marked as open" : `it has no ${name}`);
      expect(hint).not.toBe("");
    }
  });

  test(`${kind}: junk of any BSON type, in any place, is read as what may stand there or refused by name`, () => {
    for (const place of places(good)) {
      for (const junk of JUNK) {
        const doc = stored(changed(good, place, junk));
        try {
          expect(read(doc)).toBe(doc as never);
        } catch (thrown) {
          if (!(thrown instanceof KekError)) throw thrown;
          expect(["document_invalid", "unsupported_format"]).toContain(thrown.code);
          expect(thrown.message).toStartWith(`${kind}: document `);
          // On one line, and with no power over a terminal.
          // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
          expect(thrown.message).not.toMatch(/[\u0000-\u001f]/);
        }
      }
    }
  });

  test(`${kind}: one of a later format is refused as such`, () => {
    const { code, message, hint } = refusalIn(kind, { ...good, format: 2 });
    expect([code, message]).toEqual(["unsupported_format", expect.stringContaining("its format is 2")]);
    expect(hint).toContain("update this program");
    expect(refusalIn(kind, { ...good, format: "2" }).code).toBe("document_invalid");
  });
}

test("numbers, times and words that decide something are never taken from another type", () => {
  const wrong: [string, string[], unknown, string][] = [
    ["kek_rotations", ["phase"], "2", "its phase is not a number"],
    ["kek_rotations", ["phase"], 0, "its phase is less than 1"],
    ["kek_rotations", ["epoch"], 7.5, "its epoch is not a whole number"],
    ["kek_rotations", ["from"], 2, "from a version to the same one"],
    ["kek_rotations", ["open"], "true", "its open is not true"],
    ["kek_rotations", ["state"], "completed", "its phase is not 3"],
    ["kek_rotations", ["lease"], null, "open and has no lease"],
    ["kek_rotations", ["lease", "expires_at"], "2026-05-01", "its lease.expires_at is not a time"],
    ["kek_rotations", ["fence", "versions"], ["1"], "its fence.versions.0 is not a number"],
    ["kek_rotations", ["fence", "collections", "0", "own"], "{", "own is not a validator"],
    ["kek_rotations", ["fence", "collections", "0", "expected"], '{"validator":5}', "expected is not a validator"],
    ["kek_versions", ["_id"], "2", "its _id is not a number"],
    ["kek_versions", ["_id"], 2 ** 31, "its _id is more than"],
    ["kek_versions", ["canary"], new Binary(new Uint8Array(59), 0), "its canary is not BinData"],
    ["kek_versions", ["wraps"], "many", "its wraps is not a number"],
    ["process_heartbeats", ["acked"], true, "its acked is not a subdocument"],
    ["process_heartbeats", ["loaded"], { "0": 1 }, "its loaded is not a list"],
    ["process_heartbeats", ["updated_at"], "now", "its updated_at is not a time"],
    ["kek_fields", ["path"], "other", "its _id is not its collection and path"],
    ["kek_install", ["install_id"], "", "its install_id is not a UUID"],
  ];
  for (const [kind, place, to, words] of wrong) {
    const { code, message } = refusalIn(kind, changed(KINDS[kind]?.good as Doc, place, to));
    expect([kind, place, code, message]).toEqual([kind, place, "document_invalid", expect.stringContaining(words)]);
  }
});

test("a word or number from a later release is called that, and not junk", () => {
  const newer: [string, string[], unknown][] = [
    ["kek_rotations", ["phase"], 4],
    ["kek_rotations", ["state"], "paused"],
    ["kek_versions", ["state"], "quarantined"],
    ["kek_versions", ["provider"], "kmip"],
    ["kek_install", ["provider"], "kmip"],
    ["process_heartbeats", ["acked", "phase"], 4],
    ["process_heartbeats", ["problems", "0", "reason"], "expired"],
  ];
  for (const [kind, place, to] of newer) {
    const { code, message, hint } = refusalIn(kind, changed(KINDS[kind]?.good as Doc, place, to));
    expect([code, message]).toEqual([
      "unsupported_format",
      expect.stringContaining(`its ${place.join(".")} is ${JSON.stringify(to)}`),
    ]);
    expect(hint).toContain("certautopilot --version");
  }
  // A role is shown and decides nothing.
  const heartbeat = KINDS["process_heartbeats"]?.good as Doc;
  expect(heartbeatOf(stored({ ...heartbeat, role: "auditor" }))).toMatchObject({ role: "auditor" });
});

test("a field of a name that MongoDB or this program has another use for is none", () => {
  for (const [collection, path] of [
    ["users", "a"],
    ["a.b", "deep.er.c"],
    ["x:y", "z"],
  ] as const)
    expect(fieldFault({ collection, path })).toBeUndefined();
  const wrong: [string, string][] = [
    ["", "a"],
    ["$cmd", "a"],
    ["a\0", "a"],
    [".a", "a"],
    ["system.users", "a"],
    ["kek_versions", "a"],
    ["audit_log", "data"],
    ["users", ""],
    ["users", "a..b"],
    ["users", "$where"],
    ["users", "a.$[]"],
    ["users", "_id"],
    ["users", "_id.part"],
  ];
  for (const [collection, path] of wrong) {
    expect([collection, path, typeof fieldFault({ collection, path })]).toEqual([collection, path, "string"]);
    expect(refusalIn("kek_fields", { _id: `${collection}:${path}`, collection, path }).code).toBe("document_invalid");
  }
});

const states = (...list: [number, VersionState][]) => list.map(([_id, state]) => ({ _id, state }));
const rotation = (from: number, to: number, state: RotationState, phase: Phase) => ({ _id: 1, from, to, state, phase });

test("versions and rotations that cannot have come from each other are named", () => {
  const agree: [ReturnType<typeof states>, ReturnType<typeof rotation> | undefined][] = [
    [[], undefined],
    [states([1, "staged"], [2, "staged"]), undefined],
    [states([1, "active"], [2, "staged"]), undefined],
    [states([1, "active"], [2, "staged"]), rotation(1, 2, "running", 1)],
    [states([1, "active"], [2, "staged"]), rotation(1, 2, "cancelled", 2)],
    [states([1, "active"], [2, "staged"]), rotation(1, 2, "cancelled", 1)],
    // The reverse rotation of an unfinished rotation leads to the version that is active all the time.
    [states([1, "active"], [2, "staged"]), rotation(2, 1, "running", 3)],
    // Back to a lower one: no version is lost by going backwards on purpose.
    [states([1, "active"], [2, "retired"]), rotation(2, 1, "completed", 3)],
    [states([1, "destroyed"], [2, "active"], [3, "staged"]), rotation(1, 2, "completed", 3)],
  ];
  for (const [versions, newest] of agree) expect(contradiction(versions, newest)).toBeUndefined();
  const disagree: [ReturnType<typeof states>, ReturnType<typeof rotation> | undefined, string][] = [
    [states([1, "active"], [2, "active"]), undefined, "versions 1 and 2 are active"],
    [states([1, "retired"], [2, "staged"]), undefined, "no version is active"],
    [states([1, "staged"], [2, "staged"]), rotation(1, 2, "running", 2), "version none is active"],
    [states([1, "active"]), rotation(1, 2, "running", 1), "there is no version 2"],
    [states([1, "destroyed"], [2, "active"]), rotation(1, 2, "running", 2), "version 1 is destroyed"],
    [states([1, "retired"], [2, "retired"], [3, "active"]), rotation(1, 2, "running", 2), "version 3 is active"],
    [states([1, "active"], [2, "staged"]), rotation(1, 2, "completed", 3), "version 1 is active"],
    [states([1, "retired"], [2, "active"]), rotation(1, 2, "cancelled", 1), "version 2 is active"],
    [states([1, "active"], [2, "staged"]), rotation(1, 2, "reverted", 2), "is gone"],
  ];
  for (const [versions, newest, words] of disagree) expect(contradiction(versions, newest)).toContain(words);
});

test("a process follows no state that is older than the one it has followed, or another one of the same epoch", () => {
  const at = (epoch: number, phase: Phase, to = 2) =>
    keyPolicyOf(states([1, "active"], [2, "staged"]), { ...rotation(1, to, "running", phase), epoch }) as KeyPolicy;
  expect(rollbackIn(undefined, at(4, 1))).toBeUndefined();
  expect(rollbackIn(at(4, 1), at(4, 1))).toBeUndefined();
  expect(rollbackIn(at(4, 1), at(5, 2))).toBeUndefined();
  expect(rollbackIn(at(5, 2), at(4, 1))).toContain("from 5 to 4");
  expect(rollbackIn(at(5, 2), at(5, 1))).toContain("stayed 5");
  expect(rollbackIn(at(5, 2), at(5, 2, 3))).toContain("stayed 5");
  expect(rollbackIn(at(5, 2), keyPolicyOf(states([1, "active"]), undefined) as KeyPolicy)).toContain("from 5 to 0");
});

test("an audit entry with times outside of what JavaScript knows breaks the chain, and nothing else", () => {
  const data = { when: new Date(Number.NaN) } as never;
  expect(canonicalJson({ b: data, a: NOW })).toBe('{"a":"2026-05-01T09:00:00.250Z","b":{"when":null}}');
  const forged = { seq: 1, at: NOW, actor: "a", event: "install.locked", data, prev: GENESIS, mac: "00" } as const;
  expect(checkLink("s", undefined, forged)?.reason).toContain("mac does not match");
});
