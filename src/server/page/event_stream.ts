import type { Context } from "hono";
import { streamSSE } from "hono/streaming";
import type { Sighting, StatusFeed } from "../status_feed.ts";
import { RELEASE } from "./assets.ts";
import { type Sections, sectionsOf } from "./sections.ts";

/**
 * The page's changes as server-sent events: `release` once, then `sections` about once a second, whose data is the HTML of
 * those that have changed since this viewer's last.
 */
export function eventsOf(context: Context, feed: StatusFeed): Response {
  context.header("x-accel-buffering", "no");
  return streamSSE(context, async (stream) => {
    const sightings = new Newest();
    const unwatch = feed.watch((sighting) => sightings.put(sighting));
    stream.onAbort(() => sightings.end());
    try {
      await stream.writeSSE({ event: "release", data: RELEASE });
      let shown: Sections = {};
      for (;;) {
        const sighting = await sightings.next();
        if (sighting === undefined) return;
        const now = await sectionsOf(sighting);
        const changed = Object.keys(now).filter((id) => now[id] !== shown[id]);
        shown = now;
        await stream.writeSSE({ event: "sections", data: changed.map((id) => now[id]).join("\n") });
      }
    } finally {
      unwatch();
    }
  });
}

// ---------------------------------------------------------------------------------------------------------------------

/** Holds one sighting: a viewer that is slow to read misses some, and nothing piles up for it. */
class Newest {
  #held: Sighting | undefined;
  #ended = false;
  #wake: () => void = () => undefined;

  put(sighting: Sighting): void {
    this.#held = sighting;
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** @returns undefined when there will be no more. */
  async next(): Promise<Sighting | undefined> {
    while (this.#held === undefined && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const sighting = this.#ended ? undefined : this.#held;
    this.#held = undefined;
    return sighting;
  }
}
