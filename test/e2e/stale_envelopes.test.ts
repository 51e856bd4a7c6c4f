import { expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { Binary } from "mongodb";
import { take } from "../harness/crash.ts";
import { library, versionsOf } from "../harness/library.ts";
import { stop, type TestInstall, until } from "../harness/program.ts";
import {
  CALM,
  endLease,
  events,
  kek,
  newestRotation,
  proveAll,
  rotating,
  seededInstall,
  serveAll,
  versionStates,
} from "../harness/schedule.ts";

/** Envelopes at a version that was left, as a restored backup brings them: found, named, and moved by the same `rotate`. */

const STRAYS = [40, 41, 42, 43];

/** Rotated to v2; then records with two fields at v1 are put back past the fence. */
async function withStrays(ids = STRAYS): Promise<{ install: TestInstall; stopAll: () => Promise<void> }> {
  const install = await seededInstall(40, CALM);
  const writer = await library(install, [1, 2], 1, "writer");
  const fields = ["value", "other"];
  const old = await Promise.all(
    ids.map(async (id) => {
      const place = (field: string) => ({ collection: "secrets", id, field });
      const [value, other] = await Promise.all(fields.map((field) => writer.encrypt(`secret ${id}`, place(field))));
      return { _id: id as never, value, other };
    }),
  );
  await writer.close();
  const fleet = await serveAll(install, "a");
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  await install.db.collection("secrets").insertMany(old, { bypassDocumentValidation: true });
  return { install, stopAll: () => stop(...fleet) };
}

const activatedAt = async (install: TestInstall) =>
  (await install.db.collection<{ _id: number }>("kek_versions").findOne({ _id: 2 }))?.["activated_at" as never];

test("strays are named by verify, keep no rotation from being told what to do, and the same rotate repairs them", async () => {
  const { install, stopAll } = await withStrays();
  const health = await kek(install, "verify");
  expect(health.code).toBe(3);
  const stale = health.json.problems.filter(({ code }: { code: string }) => code === "stale_envelope");
  expect(stale).toHaveLength(2);
  expect(stale[0].hint).toContain("certautopilot kek rotate --to-version=2");

  const opened = await kek(install, "verify", "--records");
  expect(opened.code).toBe(6);
  expect(opened.json).toMatchObject({ ready: false, records: 48, opened: 48, failed: 0 });
  expect(opened.json.stale_envelopes).toEqual([
    { field: "secrets:other", version: 1, count: 4 },
    { field: "secrets:value", version: 1, count: 4 },
  ]);
  const named = ["other", "value"].flatMap((path) =>
    STRAYS.map((id) => ({ collection: "secrets", path, id: `{"$numberInt":"${id}"}`, version: 1 })),
  );
  expect(opened.json.stale_records).toEqual(named);
  expect(opened.stderr).toMatch(/^error: every envelope opens, but 8 of them .*\nhint: .*kek rotate/m);

  const removal = await kek(install, "remove", "--version=1", "--yes");
  expect([removal.code, removal.json.error.hint]).toEqual([3, expect.stringContaining("rotate --to-version=2")]);

  const since = await activatedAt(install);
  const repaired = await rotating(install, "--to-version=2").exited;
  expect({ code: repaired.code, stderr: repaired.stderr }).toMatchObject({ code: 0 });
  expect(repaired.json).toMatchObject({ from: 1, to: 2, state: "completed", rewrapped: 8, fenced: true });
  expect(await versionsOf(install)).toEqual({ "2": 44 });
  expect(await versionsOf(install, "secrets", "other")).toMatchObject({ "2": 4 });
  // Versions are what they were, and the fence stands again.
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });
  expect(await activatedAt(install)).toEqual(since as never);
  expect(await newestRotation(install)).toMatchObject({ repairs: true, state: "completed", fence: { versions: [1] } });
  expect((await events(install, "rotation.started"))[1]).toEqual({ rotation: 2, from: 1, to: 2, repairs: true });
  expect((await kek(install, "verify")).json).toMatchObject({ ready: true });
  expect((await kek(install, "verify", "--records")).json).toMatchObject({
    ready: true,
    opened: 48,
    stale_envelopes: [],
  });
  const again = await rotating(install, "--to-version=2").exited;
  expect([again.code, again.json.error.message]).toEqual([3, "KEK version 2 is already the active one"]);
  await proveAll(install, [2], 44);
  await stopAll();
});

test("repairing that is cancelled is over, and begun again by the same command; one whose coordinator is killed continues; there is no reverse rotation", async () => {
  // More than a slow machine moves, one a second, until it hears of the cancellation.
  const many = Array.from({ length: 60 }, (_, at) => 40 + at);
  const { install, stopAll } = await withStrays(many);
  const slow = ["--to-version=2", "--max-rate=1", "--batch-size=1"];
  const movedNow = async () => (await versionsOf(install, "secrets", "other"))["2"] ?? 0;
  const first = rotating(install, ...slow);
  await until("a stale envelope is moved", async () => (await movedNow()) > 0);
  expect((await kek(install, "rotate", "--cancel")).code).toBe(0);
  expect((await first.exited).code).toBe(5);
  const cancelled = await newestRotation(install);
  expect(cancelled).toMatchObject({ state: "cancelled", phase: 2, from: 1, to: 2, fence: { versions: [1] } });
  expect(cancelled).not.toHaveProperty("open");
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });

  const moved = await movedNow();
  const second = rotating(install, ...slow);
  await until("another is moved", async () => (await movedNow()) > moved);
  second.kill("SIGKILL");
  await second.exited;
  const back = await rotating(install, "--to-version=1", "--from-version=2").exited;
  expect([back.code, back.json.error.message]).toEqual([3, expect.stringContaining("no reverse rotation")]);
  await endLease(install);
  expect((await rotating(install, "--to-version=2").exited).code).toBe(0);
  expect(await versionsOf(install)).toEqual({ "2": 100 });
  expect(await versionStates(install)).toEqual({ "1": "retired", "2": "active" });
  await proveAll(install, [2], 100);
  await stopAll();
});

test("one that does not open keeps nobody in: the repairing is cancelled, also when that dies half way, and rotations go on", async () => {
  const { install, stopAll } = await withStrays();
  const broken = { _id: STRAYS[0] as never };
  await install.db
    .collection("secrets")
    .updateOne(
      broken,
      { $set: { "other.wrapped_dek": new Binary(randomBytes(60), 0) } },
      { bypassDocumentValidation: true },
    );
  const variables = install.variables([1, 2], 2);
  expect((await rotating(install, "--to-version=2").exited).code).toBe(6);
  expect(await newestRotation(install)).toMatchObject({ open: true, repairs: true, fence: { versions: [] } });
  await take({ words: ["kek", "rotate", "--cancel"], dies: "fence.recorded" }, variables);
  const cancelled = await kek(install, "rotate", "--cancel");
  expect({ code: cancelled.code, json: cancelled.json }).toMatchObject({ code: 0, json: { open: null } });
  expect(await newestRotation(install)).toMatchObject({ state: "cancelled", fence: { versions: [1] } });
  // Whoever holds the active version alone may serve again, and nothing comes back behind the fence.
  const alone = await library(install, [2], 2, "alone");
  expect(alone.writeVersion).toBe(2);
  await alone.close();
  const late = { _id: 99 as never, value: (await install.db.collection("secrets").findOne(broken))?.["other"] };
  expect(
    await install.db
      .collection("secrets")
      .insertOne(late)
      .catch((thrown) => thrown.code),
  ).toBe(121);
  await install.db.collection("secrets").deleteOne(broken);
  expect((await rotating(install, "--to-version=2").exited).code).toBe(3);
  expect(await versionsOf(install)).toEqual({ "2": 43 });
  await stopAll();
});
