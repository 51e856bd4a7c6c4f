import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { notReady } from "../../src/install/service_readiness.ts";
import { ownAccounts } from "../../src/install/system_user.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** What uninstall may remove of the host's users and groups, by the user database itself; and whose answer counts as ready. */

const scratch = scratchDirectory();
let roots = 0;
const own = (passwd: string, group: string) => {
  const root = join(scratch, `root-${++roots}`);
  mkdirSync(join(root, "etc"), { recursive: true });
  writeFileSync(join(root, "etc/passwd"), passwd);
  writeFileSync(join(root, "etc/group"), group);
  return ownAccounts(root);
};
const OURS =
  "certautopilot:x:990:990:made with its group by certautopilot install:/var/lib/certautopilot:/usr/sbin/nologin\n";

test("a user and its group that install made, and nobody else is in", () => {
  expect(own(OURS, "certautopilot:x:990:\n")).toEqual({ user: true, group: true, stays: [] });
});

test("a group that others are in, or that was there before, stays", () => {
  expect(own(OURS, "certautopilot:x:990:certautopilot,alice\n").stays).toEqual([
    "group certautopilot: it has other members (alice)",
  ]);
  expect(own(`${OURS}bob:x:1000:990::/home/bob:/bin/sh\n`, "certautopilot:x:990:\n")).toMatchObject({
    user: true,
    group: false,
    stays: ["group certautopilot: it has other members (bob)"],
  });
  expect(own(OURS.replace(" with its group", ""), "certautopilot:x:990:\n")).toEqual({
    user: true,
    group: false,
    stays: ["group certautopilot: install did not make it"],
  });
});

test("a user that somebody else made stays", () => {
  expect(own("certautopilot:x:1500:100::/home/certautopilot:/bin/bash\n", "users:x:100:\n")).toEqual({
    user: false,
    group: false,
    stays: ["user certautopilot (uid 1500): install did not make it"],
  });
  expect(own("root:x:0:0::/root:/bin/sh\n", "root:x:0:\n")).toEqual({ user: false, group: false, stays: [] });
});

test("ready is what our service says, not any answer of 200", async () => {
  const answers: [string, number, string | undefined][] = [
    ['{"ready":true,"write_version":1}', 200, undefined],
    ['{"ready":false,"reason":"no lease"}', 503, "no lease"],
    [
      "It looks like you are trying to access MongoDB over HTTP on the native driver port.",
      200,
      "another program answers there, with 200",
    ],
    ['{"ok":true}', 200, "another program answers there, with 200"],
  ];
  for (const [body, status, why] of answers) {
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(body, { status }) });
    expect([body, await notReady(`http://127.0.0.1:${server.port}/readyz`)]).toEqual([body, why]);
    await server.stop(true);
  }
  expect(await notReady("http://127.0.0.1:1/readyz")).toBe("it does not listen yet");
});
