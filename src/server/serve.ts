import type { Config } from "../config/config.ts";
import { SILENT } from "../errors/log.ts";
import { becomeMember, type Kek, type KekOptions } from "../fleet/kek.ts";
import { StatusReader } from "../status/read_status.ts";
import { appOf } from "./app.ts";
import { listen } from "./listener.ts";
import { StatusFeed } from "./status_feed.ts";

/** The long-running process: a member of the fleet that shows the install, and answers whether it is well. */

export interface Serving {
  kek: Kek;
  address: string;
  stop(): Promise<void>;
}

/** Joins, listens, and returns once it is ready. @throws KekError when it may not serve, or cannot listen. */
export async function serve(config: Config, options: KekOptions): Promise<Serving> {
  const { kek, store, install } = await becomeMember(config, options);
  try {
    const feed = new StatusFeed(new StatusReader(store, install, config), {
      uri: config.database.uri,
      log: options.log ?? SILENT,
    });
    const { host, port, hosts } = config.server;
    const app = appOf({ kek, feed, hosts });
    const listener = listen({ on: { host, port } }, app.fetch);
    const stop = async () => {
      feed.close();
      await listener.stop();
      await kek.close();
    };
    return { kek, address: listener.address, stop };
  } catch (thrown) {
    await kek.close();
    throw thrown;
  }
}
