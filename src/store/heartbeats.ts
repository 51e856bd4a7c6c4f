import type { Acked, HeartbeatDoc } from "../protocol/documents.ts";
import type { Member } from "../protocol/member.ts";
import { heartbeatOf } from "./document_reader.ts";
import type { Session, Store } from "./store.ts";

/** `process_heartbeats`: the roster. Times are the server's; a heartbeat never recreates a document. */

/** A process silent for a day is no news any more: MongoDB drops its heartbeat, and it joins again if it ever wakes. */
const FORGOTTEN_AFTER_SECONDS = 86_400;

export async function ensureHeartbeats(store: Store): Promise<void> {
  await heartbeats(store).createIndex({ updated_at: 1 }, { expireAfterSeconds: FORGOTTEN_AFTER_SECONDS });
}

export type NewMember = Omit<HeartbeatDoc, "started_at" | "updated_at">;

/** Joins the roster. `_id` is new at each join. */
export async function join(store: Store, session: Session, member: NewMember): Promise<void> {
  const { _id, ...fields } = member;
  await heartbeats(store).updateOne(
    { _id },
    { $setOnInsert: fields, $currentDate: { started_at: true, updated_at: true } },
    { upsert: true, session },
  );
}

export type HeartbeatFields = Pick<
  HeartbeatDoc,
  "loaded" | "available" | "problems" | "key_trouble" | "current_version" | "write_version"
>;

/**
 * A refreshed heartbeat; with `acked`, it acknowledges what has been applied.
 * @returns false when the document is gone: this process was evicted and must join again.
 */
export async function refreshHeartbeat(
  store: Store,
  session: Session,
  id: string,
  fields: HeartbeatFields & { acked?: Acked | null },
): Promise<boolean> {
  const done = await heartbeats(store).updateOne(
    { _id: id },
    { $set: fields, $currentDate: { updated_at: true } },
    { session },
  );
  return done.matchedCount === 1;
}

/** A clean stop. */
export async function leave(store: Store, id: string): Promise<void> {
  await heartbeats(store).deleteOne({ _id: id });
}

/**
 * Everybody in the fleet, with ages as the server tells them.
 * @throws KekError `document_invalid`, `unsupported_format`: one that cannot be read may be a process that must be waited for.
 */
export async function readRoster(store: Store): Promise<Member[]> {
  const found = await heartbeats(store)
    .aggregate<{ doc: unknown; now: Date }>([
      { $sort: { started_at: 1, _id: 1 } },
      { $project: { _id: 0, doc: "$$ROOT", now: "$$NOW" } },
    ])
    .toArray();
  return found.map(({ doc, now }) => {
    const member = heartbeatOf(doc);
    const age = now.getTime() - member.updated_at.getTime();
    return age < 0 ? { ...member, age_ms: 0, ahead_ms: -age } : { ...member, age_ms: age };
  });
}

/**
 * Takes a silent member off the roster, inside a transaction: only on the very heartbeat that was seen. One that was watched for long
 * enough need not be silent by MongoDB's clock as well.
 */
export async function removeSilent(store: Store, session: Session, member: Member, silentMs: number): Promise<boolean> {
  const bySeen = { _id: member._id, updated_at: member.updated_at };
  const byClock = { $expr: { $gt: [{ $subtract: ["$$NOW", "$updated_at"] }, silentMs] } };
  const watched = (member.watched_ms ?? 0) > silentMs;
  const done = await heartbeats(store).deleteOne(watched ? bySeen : { ...bySeen, ...byClock }, { session });
  return done.deletedCount === 1;
}

// ---------------------------------------------------------------------------------------------------------------------

function heartbeats(store: Store) {
  return store.db.collection<HeartbeatDoc>("process_heartbeats");
}
