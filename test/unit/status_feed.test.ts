import { expect, test } from "bun:test";
import { SILENT } from "../../src/errors/log.ts";
import { PAGE_PATH } from "../../src/server/page/document.ts";
import { pageOf } from "../../src/server/page/page.ts";
import { StatusFeed } from "../../src/server/status_feed.ts";
import { viewOf } from "../../src/status/build_status_view.ts";
import { facts } from "../harness/facts.ts";

/** What many who look, and a reader that never answers, do to the feed. */

test("so many may look live, one more is told so, and whoever leaves makes room", async () => {
  const feed = new StatusFeed({ read: async () => viewOf(facts()) }, { uri: "mongodb://127.0.0.1/", log: SILENT });
  const page = pageOf(feed, []);
  const look = async () => await page.request(`http://127.0.0.1${PAGE_PATH}/events`);
  const viewers = await Promise.all(Array.from({ length: 500 }, look));
  expect(viewers.every(({ status }) => status === 200)).toBe(true);
  expect(feed.watched).toBe(500);
  const late = await look();
  expect([late.status, await late.text()]).toEqual([503, "As many look at this page live as may.\n"]);
  await viewers[0]?.body?.cancel();
  await Bun.sleep(50);
  expect(feed.watched).toBe(499);
  expect((await look()).status).toBe(200);
  feed.close();
});

test("a read that never ends is given up, and the next one that does is shown", async () => {
  let stuck = true;
  const read = () => (stuck ? new Promise<never>(() => undefined) : Promise.resolve(viewOf(facts())));
  const feed = new StatusFeed({ read }, { uri: "mongodb://127.0.0.1/", log: SILENT, limitMs: 50 });
  expect(await feed.view()).toMatchObject({ view: undefined, fault: { error: { code: "mongodb_unavailable" } } });
  stuck = false;
  await Bun.sleep(1000);
  expect(await feed.view()).toMatchObject({ view: { health: { level: "ok" } }, fault: undefined });
  feed.close();
});
