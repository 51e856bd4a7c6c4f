import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { HOST_ROOT } from "../harness/host.ts";
import { type InstallHost, startInstallHost } from "../harness/install_host.ts";
import { layOnHost, releaseWith, TARGET_HERE } from "../harness/release.ts";
import { INSTALL_SH, RELEASED } from "../harness/release_files.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { onHostTerminal } from "../harness/terminal.ts";

/** The one-line install as a person runs it: typed into a shell on a terminal of a clean Debian, and answered there. */
describe.skipIf(HOST_ROOT === undefined)("install.sh on a terminal", () => {
  const scratch = scratchDirectory();
  const ASKED = "Go on? [y/N] ";
  let release: string;
  let host: InstallHost;
  let words: string;
  let before: [string, string][];

  beforeAll(async () => {
    release = await releaseWith(scratch, [TARGET_HERE]);
  }, 300_000);
  beforeEach(async () => {
    host = await startInstallHost({ boot: false }, join(release, `certautopilot-${TARGET_HERE}`));
    layOnHost(host, release);
    cpSync(INSTALL_SH, host.path("/opt/install.sh"));
    words = [`--version=${RELEASED}`, "--base-url=/opt/releases", "--no-service", ...host.local].join(" ");
    before = [...host.traces()];
  }, 60_000);
  afterEach(async () => await host.stop());

  const piped = (shell: string, more = "") => `cat /opt/install.sh | ${shell} -s -- ${words} ${more}`;
  /** Types a line into an interactive shell, answers its questions, and asks the shell for the exit code. */
  const typed = async (line: string, answers: [string, string][]) => {
    const ran = await onHostTerminal(host, [["ready> ", `${line}\n`], ...answers]);
    return { ...ran, code: Number(/^code=(\d+)/m.exec(ran.shown)?.[1]), program: ran.code };
  };
  const nothingLeft = async () => {
    expect([...host.traces()]).toEqual(before);
    expect(
      (await host.run(["sh", "-c", "ls -d /tmp/* /var/tmp/* /run/certautopilot-install.?????? /dev/shm/* 2>/dev/null"]))
        .stdout,
    ).toBe("");
  };

  test.each([
    ["piped into sh", () => piped("sh")],
    // sudo gives the command a terminal of its own, and starts it in the background there.
    ["piped into sudo sh", () => piped("sudo sh")],
    ["piped into bash", () => piped("bash")],
    ["as a file", () => `sh /opt/install.sh ${words}`],
  ])(
    "%s, it asks, installs after y, and has nothing to change then",
    async (_name, line) => {
      const ran = await typed(line(), [[ASKED, "y\n"]]);
      expect([ran.code, ran.typed, ran.shown]).toEqual([0, true, expect.stringMatching(/\ndone\r?\n/)]);
      expect(host.text("/etc/certautopilot/config.yaml")).toContain(host.listen);
      const again = await typed(line(), []);
      expect([again.code, again.shown]).toEqual([0, expect.stringContaining("nothing to change")]);
    },
    180_000,
  );

  test.each([
    ["n", "n\n", 5],
    ["Enter", "\n", 5],
    ["Ctrl-D", "\x04", 5],
    ["Ctrl-C", "\x03", 5],
  ])("after %s nothing was changed, and the terminal is as it was", async (_name, keys, code) => {
    for (const line of [piped("sh"), piped("sudo sh"), `sudo sh /opt/install.sh ${words}`]) {
      const ran = await typed(line, [[ASKED, keys]]);
      expect([ran.code, ran.shown]).toEqual([code, expect.stringContaining("error: nothing was changed")]);
      expect(ran).toMatchObject({ typed: true, echo_after: true, program: 0 });
      await nothingLeft();
    }
  });

  test("a PIN is asked for on the same terminal without echo, and Ctrl-C there changes nothing", async () => {
    const hsm =
      "--kek-provider=pkcs11 --pkcs11-token-label=hsm --pkcs11-module=/usr/lib/softhsm/libsofthsm2.so --pkcs11-state=/var/lib/softhsm/tokens";
    const PIN = 'PIN of token "hsm": ';
    const declined = await typed(piped("sh", hsm), [
      [PIN, "31415926\r"],
      [ASKED, "n\n"],
    ]);
    expect([declined.code, declined.shown]).toEqual([5, expect.stringContaining("nothing was changed")]);
    expect(declined.shown).not.toContain("31415926");
    const stopped = await typed(piped("sh", hsm), [[PIN, "3141\x03"]]);
    expect(stopped).toMatchObject({ code: 5, typed: true, echo_after: true, program: 0 });
    await nothingLeft();
  });
});
