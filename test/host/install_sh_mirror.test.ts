import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { privateCa } from "../harness/certificate.ts";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";
import { releaseWith, TARGET_HERE } from "../harness/release.ts";
import { INSTALL_SH, RELEASED } from "../harness/release_files.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** Release files on an https mirror whose certificate is a company's own: install.sh and update trust what the host trusts. */
describe.skipIf(HOST_ROOT === undefined)("a mirror with a company's certificate", () => {
  const scratch = scratchDirectory();
  const STORE = "/etc/ssl/certs/ca-certificates.crt";
  let host: InstallHost;
  let mirror: ReturnType<typeof Bun.serve>;
  let ca: string;
  let base: string;

  beforeAll(async () => {
    const release = await releaseWith(scratch, [TARGET_HERE]);
    const issued = privateCa(scratch);
    ca = issued.ca;
    mirror = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      tls: { cert: issued.cert, key: issued.key },
      fetch: ({ url }) => {
        const path = join(dirname(release), new URL(url).pathname);
        return existsSync(path) ? new Response(Bun.file(path)) : new Response("no", { status: 404 });
      },
    });
    base = `--base-url=https://localhost:${mirror.port}`;
    host = await startInstallHost({ boot: false }, join(release, `certautopilot-${TARGET_HERE}`));
    writeFileSync(host.path("/opt/ca.pem"), ca);
    await host.run(["cp", "/opt/release/certautopilot", "/usr/local/bin/certautopilot"], { check: true });
  }, 300_000);
  afterAll(async () => {
    await mirror.stop(true);
    await host.stop();
  });

  const update = async (env = {}) =>
    await host.certautopilot(["update", `--version=${RELEASED}`, base, "--dry-run"], { env });
  const install = async (env = {}) =>
    await host.run(["sh", "-s", "--", base, "--no-service", ...host.local, "--dry-run"], {
      stdin: readFileSync(INSTALL_SH),
      env,
    });

  test("a certificate that the host does not trust is refused by both", async () => {
    const [updated, installed] = [await update(), await install()];
    expect([updated.code, updated.stderr]).toEqual([3, expect.stringContaining("certificate")]);
    expect([installed.code, installed.stderr]).toEqual([1, expect.stringMatching(/was not fetched: .*certificate/)]);
  });

  test("SSL_CERT_FILE is trusted by both, and one that is not there is named", async () => {
    const env = { SSL_CERT_FILE: "/opt/ca.pem", CURL_CA_BUNDLE: "/opt/ca.pem" };
    const [updated, installed] = [await update(env), await install(env)];
    expect([updated.code, updated.stderr]).toEqual([0, ""]);
    expect([installed.code, installed.stdout]).toEqual([0, expect.stringContaining("would do:")]);
    const absent = await update({ SSL_CERT_FILE: "/opt/none.pem" });
    expect([absent.code, absent.stderr]).toEqual([2, expect.stringContaining("/opt/none.pem cannot be read (ENOENT)")]);
  });

  test("the system's store is trusted by both", async () => {
    appendFileSync(host.path(STORE), ca);
    const [updated, installed] = [await update(), await install()];
    expect([updated.code, updated.stderr]).toEqual([0, ""]);
    expect([installed.code, installed.stdout]).toEqual([0, expect.stringContaining("would do:")]);
  });
});
