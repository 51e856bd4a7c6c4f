import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { HOST_ROOT_11 } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";
import { freshDatabase } from "../harness/mongo.ts";
import { releaseWith, TARGET_HERE } from "../harness/release.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** Keys in SoftHSM on Debian 11, whose systemd 247 ignores directives of newer ones, with neither /tmp nor /var executable. */

const PIN = "hsm-pin-31415926";
const TOKENS = "/var/lib/softhsm/tokens";
// Not in a hook: what it starts would end with the hook.
const database = await freshDatabase();
const scratch = scratchDirectory();
let host: InstallHost;

beforeAll(async () => {
  if (HOST_ROOT_11 === undefined) return;
  // A release's addon is linked for a glibc as old as this one; a checkout's for the builder's.
  const release = await releaseWith(scratch, [TARGET_HERE]);
  host = await startInstallHost({ boot: true, debian: 11 }, join(release, `certautopilot-${TARGET_HERE}`));
  const init = `softhsm2-util --init-token --free --label ca --pin ${PIN} --so-pin so-27182818`;
  const shared = `chown -R root:softhsm ${TOKENS} && chmod -R g+rwX ${TOKENS}`;
  const noexec = "mount -o remount,noexec /tmp && mount --bind /var /var && mount -o remount,noexec,bind /var";
  await host.run(["sh", "-c", `${init} && ${shared} && ${noexec}`], { check: true });
}, 300_000);
afterAll(async () => await host?.stop());

test.skipIf(HOST_ROOT_11 === undefined)(
  "systemd 247, and a host that executes nothing in /tmp and /var: installed and ready",
  async () => {
    expect((await host.run(["systemctl", "--version"])).stdout).toStartWith("systemd 247 ");
    const { code, stderr } = await host.certautopilotWith(`${PIN}\n`, [
      ...["install", "--kek-provider=pkcs11", "--pkcs11-module=/usr/lib/softhsm/libsofthsm2.so"],
      ...["--pkcs11-token-label=ca", `--pkcs11-state=${TOKENS}`, "--pkcs11-pin-file=/dev/fd/3"],
      ...[
        "--mongo=external",
        `--mongo-uri=${database.uri}`,
        `--mongo-database=${database.name}`,
        `--listen=${host.listen}`,
      ],
    ]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("ready: ")]);
    expect(await host.ready()).toBe(true);
    // It knows every directive of the units, so that none is ignored.
    const journal = await host.run(["journalctl", "--no-pager", "--output=cat"]);
    expect(journal.stdout).not.toMatch(/Unknown (key|lvalue)/i);
    expect((await host.run(["sh", "-c", "ls -d /run/certautopilot-init-* /tmp/certautopilot-init-*"])).stdout).toBe("");
  },
);
