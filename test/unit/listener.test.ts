import { expect, test } from "bun:test";
import { join } from "node:path";
import { listen } from "../../src/server/listener.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** How long an answer may take: what Bun does by itself, ten to fourteen seconds after the last byte, is to end the connection without one. */

const SLOW_MS = 15_000;
const scratch = scratchDirectory();

test("an answer that takes long is given, over TCP and over a Unix socket", async () => {
  const socket = join(scratch, "api.sock");
  const slow = async () => {
    await Bun.sleep(SLOW_MS);
    return new Response("at last");
  };
  const listeners = [listen({ on: { host: "127.0.0.1", port: 0 } }, slow), listen({ on: { socket } }, slow)];
  const [tcp] = listeners;
  const asked = [fetch(String(tcp?.address)), fetch("http://localhost/", { unix: socket })];
  const texts = await Promise.all(asked.map(async (response) => (await response).text()));
  expect(texts).toEqual(["at last", "at last"]);
  for (const listener of listeners) await listener.stop();
}, 30_000);
