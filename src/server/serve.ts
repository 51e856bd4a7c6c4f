import type { Config } from "../config/config.ts";
import { joinFleet, type Kek, type KekOptions } from "../fleet/kek.ts";
import { appOf } from "./app.ts";
import { listen } from "./listener.ts";

/** The long-running process: a member of the fleet that answers whether it is well. */

export interface Serving {
  kek: Kek;
  address: string;
  stop(): Promise<void>;
}

/** Joins, listens, and returns once it is ready. @throws KekError when it may not serve, or cannot listen. */
export async function serve(config: Config, options: KekOptions): Promise<Serving> {
  const kek = await joinFleet(config, options);
  try {
    const app = appOf(kek);
    const { host, port } = config.server;
    const listener = listen({ on: { host, port } }, app.fetch);
    const stop = async () => {
      await listener.stop();
      await kek.close();
    };
    return { kek, address: listener.address, stop };
  } catch (thrown) {
    await kek.close();
    throw thrown;
  }
}
