import { chmodSync, lstatSync, unlinkSync } from "node:fs";
import { connect } from "node:net";
import process from "node:process";
import { KekError } from "../errors/errors.ts";
import { type Answer, type Listener, listen } from "./listener.ts";

/** A Unix socket that only this user can open, from its first moment on. */

/** What Linux keeps of a socket's path. */
const MAX_PATH_BYTES = 107;

/**
 * Listens on a path. What a dead process has left there is replaced, a socket that somebody answers on is not.
 * @throws KekError `config_invalid` when the path is in use, too long, or not ours to make.
 */
export async function listenOnSocket(path: string, answer: Answer): Promise<Listener> {
  if (Buffer.byteLength(path) > MAX_PATH_BYTES)
    throw unfit(path, `is longer than the ${MAX_PATH_BYTES} bytes that a socket's path may have`);
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there !== undefined) {
    if (!there.isSocket()) throw unfit(path, "is there already, and no socket");
    if (await answers(path)) throw unfit(path, "is in use: another process answers on it");
    unlinkSync(path);
  }
  // The mode counts from the moment of binding: nobody can connect before it is set.
  const before = process.umask(0o177);
  let listener: Listener;
  try {
    listener = listen({ on: { socket: path } }, answer);
  } finally {
    process.umask(before);
  }
  chmodSync(path, 0o600);
  const { ino } = lstatSync(path);
  return {
    address: listener.address,
    async stop() {
      await listener.stop();
      // Only ours: a process that came after this one may have made the path again.
      if (lstatSync(path, { throwIfNoEntry: false })?.ino === ino) unlinkSync(path);
    },
  };
}

// ---------------------------------------------------------------------------------------------------------------------

/** Whether a process listens on a socket's path. */
async function answers(path: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect({ path });
    const done = (alive: boolean) => {
      socket.destroy();
      resolve(alive);
    };
    socket.once("connect", () => done(true));
    // Refused: nobody listens. Anything else, a full queue or a missing right, means that somebody may.
    socket.once("error", (error: NodeJS.ErrnoException) =>
      done(error.code !== "ECONNREFUSED" && error.code !== "ENOENT"),
    );
  });
}

function unfit(path: string, what: string): KekError {
  return new KekError(
    "config_invalid",
    `CERTAUTOPILOT_API_SOCKET (api.socket): ${path} ${what}`,
    "name a path in a directory of this user's own, one for each process",
  );
}
