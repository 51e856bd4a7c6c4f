import { expect, test } from "bun:test";
import { join } from "node:path";
import { testToken } from "../harness/token.ts";

test("a provider is closed while its call hangs in the token, and the others of its process live on", async () => {
  const { variables } = testToken();
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../harness/hanging_token.ts")], {
    env: {
      PATH: process.env["PATH"] ?? "",
      ...variables,
      CERTAUTOPILOT_DATABASE_URI: "mongodb://nobody/?replicaSet=none",
      CERTAUTOPILOT_ENCRYPTION_PKCS11_SESSIONS: "2",
    },
    stdout: "pipe",
    stderr: "inherit",
  });
  const outcome = JSON.parse(await new Response(child.stdout).text());
  expect(outcome).toEqual({
    closing: "done",
    told: expect.stringMatching(/^(closed|hsm_unavailable)$/),
    checked: "done",
    renewed: true,
  });
}, 60_000);
