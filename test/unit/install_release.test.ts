import { afterAll, afterEach, expect, test } from "bun:test";
import { checkBase, expectedDigest } from "../../src/install/release.ts";
import { notReady } from "../../src/install/service_readiness.ts";

/** What `update` takes from a mirror, and how install and update ask this host's own service. */

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request) {
    const { pathname, port } = new URL(request.url);
    if (pathname === "/readyz") return Response.json({ reason: "starting" }, { status: 503 });
    const to = {
      "/moved/v1.4.1/SHA256SUMS": "/v1.4.1/SHA256SUMS",
      // The same server by a name that is not loopback's own.
      "/open/v1.4.1/SHA256SUMS": `http://127.0.0.2:${port}/v1.4.1/SHA256SUMS`,
      "/round/v1.4.1/SHA256SUMS": "/round/v1.4.1/SHA256SUMS",
    }[pathname];
    if (to !== undefined) return new Response(null, { status: 302, headers: { location: to } });
    return new Response(`${"a".repeat(64)}  certautopilot-linux-x64\n`);
  },
});
afterAll(() => void server.stop(true));
const url = `http://127.0.0.1:${server.port}`;
const digest = (base: string) => expectedDigest({ base, version: "1.4.1", name: "certautopilot-linux-x64" });

test("a redirect is followed, but to no address where it could be changed on its way", async () => {
  expect(await digest(`${url}/moved`)).toBe("a".repeat(64));
  await expect(digest(`${url}/open`)).rejects.toThrow("redirects to an address that is not https");
  await expect(digest(`${url}/round`)).rejects.toThrow("more than 5 redirects");
});

test("a base URL with a password is refused, and not repeated", () => {
  expect(() => checkBase("https://me:hush@mirror.example/")).toThrow(
    /^--base-url has a user name or a password in it$/,
  );
});

afterEach(() => {
  delete process.env["http_proxy"];
});

test("the host's own service is not asked through a proxy", async () => {
  process.env["http_proxy"] = "http://127.0.0.1:9";
  expect(await notReady(`${url}/readyz`)).toBe("starting");
});
