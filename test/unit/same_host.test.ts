import { expect, test } from "bun:test";
import { isOwnHost, isOwnOrigin } from "../../src/server/same_host.ts";

const asked = (headers: Record<string, string>) => new Request("http://never.asked/", { headers });

test("a Host is an address, localhost, or a name that was configured", () => {
  const own = (host: string) => isOwnHost(asked({ host }), ["keys.example"]);
  for (const host of ["127.0.0.1:8181", "10.1.2.3", "[::1]:8181", "localhost", "LOCALHOST:1", "Keys.Example:443"])
    expect([host, own(host)]).toEqual([host, true]);
  for (const host of ["keys.example.evil", "evil", "127.0.0.1.evil", "a@localhost", "localhost:x", "[::1", "::1:80:x"])
    expect([host, own(host)]).toEqual([host, false]);
  // Without one it is the authority that was asked, as in HTTP/2.
  expect([isOwnHost(asked({}), []), isOwnHost(asked({}), ["never.asked"])]).toEqual([false, true]);
});

test("an Origin is this Host's, and no browser says that the page is another site's", () => {
  const host = "keys.example";
  expect(isOwnOrigin(asked({ host }))).toBe(true);
  expect(isOwnOrigin(asked({ host, origin: "https://keys.example" }))).toBe(true);
  for (const origin of ["null", "", "https://keys.example:444", "https://evil/keys.example", "file://keys.example"])
    expect([origin, isOwnOrigin(asked({ host, origin }))]).toEqual([origin, false]);
  for (const site of ["cross-site", "same-site"])
    expect([site, isOwnOrigin(asked({ host, "sec-fetch-site": site }))]).toEqual([site, false]);
  for (const site of ["same-origin", "none"])
    expect([site, isOwnOrigin(asked({ host, "sec-fetch-site": site }))]).toEqual([site, true]);
});
