import type { RotationDoc, VersionDoc } from "../protocol/documents.ts";
import { contradiction } from "../protocol/state_contradictions.ts";
import { unreadable, versionOf } from "./document_reader.ts";
import { type FoundRotations, NEWEST, newestOf } from "./rotations.ts";
import { atOneMoment, type Session, type Store } from "./store.ts";
import { byNumber } from "./versions.ts";

/** What every process follows: the versions and the newest rotation, of one and the same moment. */
export interface KekState {
  versions: VersionDoc[];
  /** The newest rotation, open or not. */
  rotation: RotationDoc | undefined;
}

/**
 * Of one moment, for the two collections change together when a rotation completes, and half of that change would be a wrong
 * write version. In a session that has just written a heartbeat, it is no older than that heartbeat.
 * @throws KekError `document_invalid`, `unsupported_format`: nothing is decided by a state that cannot be read, or is no state.
 */
export async function readState(store: Store, session?: Session): Promise<KekState> {
  const { known, ...rotations } = await atOneMoment<FoundState>(store, STATE, session);
  const versions = known.map(versionOf).sort(byNumber);
  const rotation = newestOf(rotations);
  const fault = contradiction(versions, rotation);
  if (fault !== undefined) throw unreadable("kek_versions", fault);
  return { versions, rotation };
}

// ---------------------------------------------------------------------------------------------------------------------

interface FoundState extends FoundRotations {
  /** Of `kek_versions`. */
  known: unknown[];
}

/** All of it in one command: each process asks for it at each heartbeat, and all of them at once when the phase changes. */
const STATE = [{ $lookup: { from: "kek_versions", pipeline: [], as: "known" } }, ...NEWEST];
