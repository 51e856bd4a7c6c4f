import type { Socket } from "node:net";
// biome-ignore lint/suspicious/noTsIgnore: an error for tsc only, and Deno would complain of an expected one
// @ts-ignore: the driver has no public way to a connection's socket, so no types for this one
import * as connection from "mongodb/lib/cmap/connection.js";

/**
 * Under Bun a socket that its peer has closed is `destroyed` for a while before it says `close`. The driver (7.9.0), asked to
 * send a command then, gets `false` from `write` and waits for `drain`, which never comes: the operation hangs for ever, beyond
 * every timeout, and when it is the monitor's own, so does all news of that server. Under Node.js the window is too small to hit.
 * A command for such a socket is refused here as one that came after the close: the driver tries it again where it may.
 */

interface Connection {
  socket: Socket;
  onSocketError(cause: Error): void;
  throwIfAborted(): void;
}
type WriteCommand = (this: Connection, ...args: unknown[]) => Promise<void>;

/** Once for a process; a second time changes nothing. */
export function refuseClosedSockets(): void {
  const { prototype } = connection.Connection as { prototype: { writeCommand: WriteCommand } };
  if (!("Bun" in globalThis) || guarded.has(prototype.writeCommand)) return;
  const writeCommand = prototype.writeCommand;
  const guard: WriteCommand = async function (...args) {
    if (this.socket.destroyed) {
      this.onSocketError(new Error("the socket was closed before the command was sent"));
      this.throwIfAborted();
    }
    await writeCommand.apply(this, args);
  };
  guarded.add(guard);
  prototype.writeCommand = guard;
}

// ---------------------------------------------------------------------------------------------------------------------

const guarded = new WeakSet<WriteCommand>();
