import { expect, test } from "bun:test";
import { addressOf, PAGE_PATH } from "../harness/address.ts";
import { stop, testInstall } from "../harness/program.ts";

/** Who may ask for the page, and what its answers say beside their bodies. */
test("foreign names and origins are refused; every answer is framed by nobody and runs nothing of others", async () => {
  const install = await testInstall();
  const serving = await install.serve("api", [1], 1, { CERTAUTOPILOT_SERVER_HOSTS: "kek.example" });
  const address = addressOf(serving);
  const { port } = new URL(address);
  const ask = (path: string, headers: Record<string, string> = {}, method = "GET") =>
    fetch(address + path, { headers, method, redirect: "manual" });

  const page = await ask(PAGE_PATH);
  expect(page.status).toBe(200);
  expect(Object.fromEntries(page.headers)).toMatchObject({
    "content-security-policy":
      "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
  });
  const text = await page.text();
  expect(text).not.toMatch(/ style=| on[a-z]+=|<style|<script(?! type="module" src=)|https?:\/\//);

  // What the page is made of is named by its content, and may be kept.
  const parts = [...text.matchAll(/(?:href|src)="(\/settings\/kek-versions\/[0-9a-f]{12}\.\w+)"/g)].map(
    (match) => match[1] as string,
  );
  expect(parts).toHaveLength(3);
  for (const path of parts) {
    const part = await ask(path);
    expect(part.status).toBe(200);
    expect(part.headers.get("cache-control")).toBe("public, max-age=31536000, immutable");
    expect(part.headers.get("content-security-policy")).toContain("default-src 'none'");
  }

  const root = await ask("/");
  expect([root.status, root.headers.get("location")]).toEqual([302, PAGE_PATH]);

  for (const host of [`localhost:${port}`, "127.0.0.1", "[::1]:8181", "10.1.2.3:80", "kek.example", "KEK.example:8181"])
    expect([host, (await ask(PAGE_PATH, { host })).status]).toEqual([host, 200]);
  for (const host of ["evil.example", `evil.example:${port}`, "127.0.0.1.evil.example", "localhost.evil.example"])
    for (const path of [PAGE_PATH, "/", `${PAGE_PATH}/events`, parts[0] as string]) {
      const refused = await ask(path, { host });
      expect([host, path, refused.status]).toEqual([host, path, 421]);
      expect(await refused.text()).toContain("CERTAUTOPILOT_SERVER_HOSTS");
      expect(refused.headers.get("x-frame-options")).toBe("DENY");
    }
  // A probe may come under any name.
  expect((await ask("/healthz", { host: "evil.example" })).status).toBe(200);

  for (const headers of [
    { origin: "https://evil.example" },
    { origin: "null" },
    { origin: `http://127.0.0.1:${Number(port) + 1}` },
    { "sec-fetch-site": "cross-site" },
    { "sec-fetch-site": "same-site" },
  ]) {
    const refused = await ask(`${PAGE_PATH}/events`, headers as Record<string, string>);
    expect([headers, refused.status]).toEqual([headers, 403]);
  }
  const events = await ask(`${PAGE_PATH}/events`, { origin: address, "sec-fetch-site": "same-origin" });
  expect([events.status, events.headers.get("content-type")]).toEqual([200, "text/event-stream"]);
  await events.body?.cancel();

  const head = await ask(`${PAGE_PATH}/events`, {}, "HEAD");
  expect([head.status, await head.text()]).toEqual([200, ""]);
  const posted = await ask(PAGE_PATH, {}, "POST");
  expect([posted.status, posted.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
  expect((await ask("/settings/other")).status).toBe(404);
  await stop(serving);
});
