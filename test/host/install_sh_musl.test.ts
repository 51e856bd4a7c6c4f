import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { freshDatabase } from "../harness/mongo.ts";
import { MUSL_ROOT, type MuslHost, muslHost } from "../harness/musl_host.ts";
import { kekHex, until } from "../harness/program.ts";
import { releaseWith } from "../harness/release.ts";
import { INSTALL_SH } from "../harness/release_files.ts";
import { scratchDirectory } from "../harness/scratch.ts";

const { uri, name } = await freshDatabase();

/** The piped installer on a host of another family: musl and busybox alone, its release from a mirror on loopback. */
describe.skipIf(MUSL_ROOT === undefined)("install.sh on musl and busybox", () => {
  const scratch = scratchDirectory();
  const SECRETS = "/etc/certautopilot/secrets.env";
  let host: MuslHost;
  let mirror: ReturnType<typeof Bun.serve>;
  let flags: string[];

  beforeAll(async () => {
    const release = await releaseWith(scratch, ["linux-x64-musl"]);
    mirror = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: ({ url }) => new Response(Bun.file(join(dirname(release), new URL(url).pathname))),
    });
    host = muslHost(scratch);
    flags = [
      "--no-service",
      "--mongo=external",
      `--mongo-uri=${uri}`,
      `--mongo-database=${name}`,
      "--listen=127.0.0.1:0",
    ];
  }, 300_000);
  afterAll(() => void mirror.stop(true));

  const piped = async (words: string[]) =>
    await host.run(
      ["sh", "-s", "--", `--base-url=http://127.0.0.1:${mirror.port}`, ...words],
      readFileSync(INSTALL_SH),
    );

  test("where no user can be made, nothing is left, and the next step is said", async () => {
    const before = [...host.listing()];
    const dry = await piped([...flags, "--dry-run"]);
    expect([dry.code, dry.stderr]).toEqual([0, expect.stringContaining("release file: certautopilot-linux-x64-musl")]);
    const { code, stderr } = await piped(flags);
    expect([code, stderr]).toEqual([3, expect.stringContaining("make a system user and group certautopilot yourself")]);
    expect([...host.listing()]).toEqual(before);
  });

  test("it installs, changes nothing the second time, and what it installed rotates", async () => {
    appendFileSync(host.path("/etc/passwd"), "certautopilot:x:100:101::/var/lib/certautopilot:/bin/false\n");
    appendFileSync(host.path("/etc/group"), "certautopilot:x:101:\n");
    const ran = await piped(flags);
    expect([ran.code, ran.stderr]).toEqual([0, expect.stringContaining("KEK version 1 made known")]);
    const before = [...host.listing()];
    const again = await piped(flags);
    expect([again.code, again.stdout]).toEqual([0, "nothing to change\n"]);
    expect([...host.listing()]).toEqual(before);
    expect(host.listing().get(SECRETS)).toStartWith("600 100:101 ");

    const serve = host.start(["su", "-s", "/bin/sh", "certautopilot", "-c", "exec /usr/local/bin/certautopilot serve"]);
    let said = "";
    serve.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
    try {
      await until(`the service; it said ${said}`, async () => said.includes(" is ready on "));
      const more = `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V2=${kekHex()}\n`;
      const text = readFileSync(host.path(SECRETS), "utf8");
      writeFileSync(host.path(SECRETS), text.replace(/(CURRENT_VERSION)=1/, "$1=2") + more);
      const kek = async (...words: string[]) => await host.run(["certautopilot", "kek", ...words]);
      await until("kek verify", async () => (await kek("verify", "--target=2", "--no-backup-check")).code === 0);
      const rotated = await kek("rotate", "--to-version=2", "--no-backup-check", "--yes");
      expect([rotated.code, rotated.stderr]).toEqual([0, expect.any(String)]);
    } finally {
      // All of its group: su has made the service another user's, who does not end with its parent.
      process.kill(-(serve.pid as number), "SIGKILL");
    }
  }, 120_000);
});
