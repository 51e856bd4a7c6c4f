import type { RotationDoc, VersionDoc } from "./documents.ts";
import { newestRotation } from "./rotations.ts";
import { unreadable } from "./shapes.ts";
import { contradiction } from "./state_rules.ts";
import { type Session, type Store, transact } from "./store.ts";
import { readVersions } from "./versions.ts";

/** What every process follows: the versions and the newest rotation, of one and the same moment. */
export interface KekState {
  versions: VersionDoc[];
  /** The newest rotation, open or not. */
  rotation: RotationDoc | undefined;
}

/**
 * A snapshot in a transaction: the two collections change together when a rotation completes, and half of that change
 * would be a wrong write version. In a session that has just written a heartbeat, it is no older than that heartbeat.
 * @throws KekError `document_invalid`, `document_newer`: nothing is decided by a state that cannot be read, or is no state.
 */
export async function readState(store: Store, session?: Session): Promise<KekState> {
  return await transact(
    store,
    async (inner) => {
      const state = { versions: await readVersions(store, inner), rotation: await newestRotation(store, inner) };
      const fault = contradiction(state.versions, state.rotation);
      if (fault !== undefined) throw unreadable("kek_versions", fault);
      return state;
    },
    session,
  );
}
