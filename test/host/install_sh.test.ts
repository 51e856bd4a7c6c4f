import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { BINARY, until } from "../harness/program.ts";
import { INSTALL_SH, layRelease, RELEASED } from "../harness/release_files.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/**
 * install.sh by itself, in each shell: what it refuses, what it fetches, what it starts and with what. The program of these
 * release files is a script that writes down how it was started; test/host/install_sh_host.test.ts has real ones.
 */

const scratch = scratchDirectory();
const TARGETS = ["linux-x64", "linux-x64-baseline", "linux-x64-musl", "linux-arm64"];
const SHELLS: [string, string[]][] = [
  ["bash", ["bash"]],
  ["dash", ["dash"]],
  ["busybox sh", ["busybox", "sh"]],
  ["ksh93", ["ksh93"]],
  ["mksh", ["mksh"]],
];

/** Ends with 7, so that its code is seen to be handed on. */
const PROGRAM = `#!/bin/sh
[ "$1" = --version ] && echo ${RELEASED} && exit
exec >"$STARTED"
printf 'argument %s\\n' "$@"
[ -e /dev/fd/3 ] && echo "/dev/fd/3 $(cat <&3)"
[ -e /dev/fd/4 ] && echo "/dev/fd/4 $(cat <&4)"
echo "input $(readlink /proc/self/fd/0)"
echo "mode $(stat -c %a "$(dirname "$0")")"
tr '\\0' ' ' </proc/$$/cmdline
env
exit 7
`;
const base = join(scratch, "base");
const release = layRelease(base, Object.fromEntries(TARGETS.map((target) => [`certautopilot-${target}`, PROGRAM])));

/** A place of its own for each test: where it works, where its temporary files go, and what the program wrote down. */
let place: { directory: string; temporary: string; started: string };
beforeEach(() => {
  const directory = mkdtempSync(join(scratch, "place-"));
  place = { directory, temporary: join(directory, "tmp"), started: join(directory, "started") };
  mkdirSync(place.temporary);
});

interface Ran {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** As `cat install.sh | sh -s -- …`, away from any terminal. */
async function piped(
  shell: string[],
  words: string[],
  env = environment(),
  abort?: AbortSignal,
  signal: NodeJS.Signals = "SIGTERM",
): Promise<Ran> {
  const argv = ["--fork", "--wait", ...shell, "-s", "--", ...words];
  const child = spawn("setsid", argv, { cwd: place.directory, env, stdio: ["pipe", "pipe", "pipe"] });
  child.stdin.end(readFileSync(INSTALL_SH));
  const ran: Ran = { code: null, stdout: "", stderr: "" };
  child.stdout.on("data", (chunk: Buffer) => (ran.stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (ran.stderr += chunk.toString()));
  abort?.addEventListener("abort", () => process.kill(groupOf(child.pid ?? 0), signal));
  ran.code = await new Promise((resolve) => child.once("close", resolve));
  return ran;
}

function environment(...path: string[]): Record<string, string> {
  return { PATH: [...path, process.env["PATH"]].join(":"), TMPDIR: place.temporary, STARTED: place.started };
}

const FLAGS = ["--root=/nowhere", `--base-url=${base}`];

/** The program was not started, and nothing is left. */
function expectNothing(): void {
  expect(existsSync(place.started)).toBe(false);
  expect(readdirSync(place.directory)).toEqual(["tmp"]);
  expect(readdirSync(place.temporary)).toEqual([]);
}

function expectRefused(ran: Ran, code: number, message: string | RegExp): void {
  expect(ran.stderr).toMatch(message);
  expect(ran.stderr).toMatch(/^hint: .+/m);
  expect({ code: ran.code, stdout: ran.stdout }).toEqual({ code, stdout: "" });
  expectNothing();
}

describe.each(SHELLS)("install.sh under %s", (_name, shell) => {
  test("hands flags over, secrets through pipes and not as arguments, and the program's exit code back", async () => {
    const flags = [
      "--mongo=external",
      "--kek-provider=pkcs11",
      "--pkcs11-token-label=a 'b' $c",
      "--no-service",
      "--allow-downgrade",
      "--yes",
    ];
    // A program called printf shows its arguments in the list of processes.
    const arguments_ = join(place.directory, "arguments");
    const printf = `printf '%s ' "$@" >>'${arguments_}'\nprintf "$@"`;
    const secrets = ["--pkcs11-pin=P%s 'in\\", "--mongo-uri=mongodb://u:pass@h/?a=b&c"];
    const ran = await piped(shell, [...FLAGS, ...flags, ...secrets], environment(stubs({ printf })));
    if (existsSync(arguments_)) expect(readFileSync(arguments_, "utf8")).not.toMatch(/'in|u:pass/);
    expect(ran.code).toBe(7);
    expect(ran.stderr).toContain("warning: --pkcs11-pin can be seen");
    expect(ran.stderr).toContain("warning: --mongo-uri with a password can be seen");
    const started = readFileSync(place.started, "utf8");
    const given = started.split("\n").filter((line) => line.startsWith("argument "));
    const pipes = ["--pkcs11-pin-file=/dev/fd/3", "--mongo-uri-file=/dev/fd/4"];
    expect(given).toEqual(["install", FLAGS[0], ...flags, ...pipes].map((word) => `argument ${word}`));
    expect(started).toContain("/dev/fd/3 P%s 'in\\\n/dev/fd/4 mongodb://u:pass@h/?a=b&c\n");
    // Neither in the arguments of the program nor in its environment.
    expect(started.match(/'in/g)).toHaveLength(1);
    expect(started.match(/u:pass/g)).toHaveLength(1);
    expect(started).toContain("input /dev/null");
    expect(started).toContain("mode 700");
    expect(`${ran.stdout}${ran.stderr}`).not.toMatch(/'in|u:pass/);
    expect(readdirSync(place.temporary)).toEqual([]);
  });

  test("what the caller's shell and environment say changes nothing, and shows no PIN", async () => {
    const evil = join(place.directory, "evil");
    layRelease(
      join(evil, "mirror"),
      Object.fromEntries(TARGETS.map((name) => [`certautopilot-${name}`, "#!/bin/sh\n"])),
    );
    symlinkSync(base, join(place.directory, "mirror"));
    const env = { ...environment(), CDPATH: evil, pin: "mine" };
    const words = ["--root=/nowhere", "--base-url=mirror", "--dry-run", "--pkcs11-pin=98-76 $(x)"];
    const ran = await piped([...shell, "-x", "-a"], words, env);
    expect({ code: ran.code, shown: ran.stderr.includes("98-76") }).toEqual({ code: 7, shown: false });
    const started = readFileSync(place.started, "utf8");
    expect(started).toContain("/dev/fd/3 98-76 $(x)\n");
    expect(started).not.toMatch(/^pin=/m);
  });

  test.each([
    [[]],
    [["--pkcs11-pin=1234"]],
  ])("waits for the program when the terminal hangs up, and ends with its exit code: %p", async (secrets) => {
    const slow = join(place.directory, "slow");
    const program = [
      "#!/bin/sh",
      `[ "$1" = --version ] && echo ${RELEASED} && exit`,
      `trap 'echo undone >>"$STARTED"; exit 5' HUP`,
      'echo started >"$STARTED"',
      "while :; do sleep 0.1; done",
    ];
    layRelease(slow, Object.fromEntries(TARGETS.map((name) => [`certautopilot-${name}`, program.join("\n")])));
    const hangUp = new AbortController();
    const words = ["--root=/nowhere", `--base-url=${slow}`, ...secrets];
    const ran = piped(shell, words, environment(), hangUp.signal, "SIGHUP");
    await until("the program", async () => existsSync(place.started));
    hangUp.abort();
    expect((await ran).code).toBe(5);
    expect(readFileSync(place.started, "utf8")).toBe("started\nundone\n");
    expect(readdirSync(place.temporary)).toEqual([]);
  });

  test("does nothing when it was cut off anywhere", async () => {
    const script = readFileSync(INSTALL_SH);
    const cuts = Array.from({ length: Math.floor(script.length / 500) }, (_, index) => (index + 1) * 500);
    for (let cut = script.length - 2; cut > script.length - 40; cut -= 1) cuts.push(cut);
    const loop = `for cut in ${cuts.join(" ")}; do head -c $cut '${INSTALL_SH}' | setsid --wait ${shell.join(" ")} -s -- ${FLAGS.join(" ")}; done`;
    spawnSync("sh", ["-c", loop], { cwd: place.directory, env: environment() });
    expectNothing();
    // The same, whole, does something.
    await piped(shell, FLAGS);
    expect(existsSync(place.started)).toBe(true);
  });

  test("refuses what it does not know, before anything is fetched, and does not repeat what may be a secret", async () => {
    const cases: [string[], RegExp][] = [
      [["--mongo=lokal"], /--mongo has another value/],
      [["--kek-provider=hsm"], /--kek-provider has another value/],
      [["--unknown"], /--unknown is no flag/],
      [["--unknown=31415926"], /--unknown is no flag/],
      [["--pkcs11-pin", "31415926"], /--pkcs11-pin has no value/],
      [["31415926"], /an argument that is no flag/],
      [["--yes", "--yes"], /--yes is given twice/],
      [["--version=v1.4.0"], /--version is no version/],
      [["--version=1.4.0/../../x"], /--version is no version/],
      [["--pkcs11-pin=31415926", "--pkcs11-pin-file=/x"], /both given/],
      [["--mongo-uri=mongodb://31415926@h", "--mongo-uri-file=/x"], /both given/],
    ];
    for (const [words, message] of cases) {
      const ran = await piped(shell, ["--root=/nowhere", "--base-url=http://127.0.0.1:9", ...words]);
      expectRefused(ran, 2, message);
      expect(ran.stderr).not.toContain("31415926");
      expect(ran.stderr).not.toContain("fetching");
    }
  });

  test("starts nothing whose sha256 is not the one in SHA256SUMS", async () => {
    for (const [name, spoil] of Object.entries({
      changed: (directory: string) => {
        for (const target of TARGETS) writeFileSync(join(directory, `certautopilot-${target}`), `${PROGRAM}#`);
      },
      unnamed: (directory: string) => writeFileSync(join(directory, "SHA256SUMS"), ""),
      absent: (directory: string) => rmSync(join(directory, "SHA256SUMS")),
    })) {
      const spoilt = join(scratch, `spoilt-${name}-${shell.at(-1)}-${shell.length}`);
      spoil(layRelease(spoilt, Object.fromEntries(TARGETS.map((target) => [`certautopilot-${target}`, PROGRAM]))));
      for (const dry of [[], ["--dry-run"]]) {
        const ran = await piped(shell, ["--root=/nowhere", `--base-url=${spoilt}`, ...dry]);
        expectRefused(ran, 1, /is not what SHA256SUMS says|has no sha256 of|there is no .*SHA256SUMS/);
      }
    }
  });

  test("a dry run from a directory writes nothing, not even a temporary file", async () => {
    rmSync(place.temporary, { recursive: true });
    const ran = await piped(shell, [...FLAGS, "--dry-run"]);
    expect(ran.code).toBe(7);
    expect(readFileSync(place.started, "utf8")).toContain(`argument --dry-run\n`);
    expect(readFileSync(place.started, "utf8")).toContain(`${release}/certautopilot-linux-`);
    expect(readdirSync(place.directory)).toEqual(["started"]);
  });

  test("--help says every flag of certautopilot install, and does nothing else", async () => {
    const ran = await piped(shell, ["--help"]);
    expect({ code: ran.code, stderr: ran.stderr }).toEqual({ code: 0, stderr: "" });
    const help = spawnSync(BINARY, ["install", "--help"], { encoding: "utf8" }).stdout;
    const flags = [...help.matchAll(/--[a-z][a-z0-9-]+/g)].map(([flag]) => flag);
    const absent = flags.filter((flag) => flag !== "--config" && !ran.stdout.includes(flag));
    expect({ some: flags.length > 15, absent }).toEqual({ some: true, absent: [] });
    expectNothing();
  });
});

test.each(SHELLS)("the program reads the URI from the pipe that %s makes", async (_name, shell) => {
  const root = join(place.directory, "root");
  mkdirSync(root);
  const words = [`--root=${root}`, "--mongo=external", "--dry-run", "--json"];
  const line = `printf '%s' 'mongodb://127.0.0.1:9/?replicaSet=none' | { exec '${BINARY}' install ${words.join(" ")} --mongo-uri-file=/dev/fd/4 4<&0 0</dev/null; }`;
  const ran = spawnSync(shell[0] ?? "", [...shell.slice(1), "-c", line], { encoding: "utf8" });
  expect([ran.status, ran.stderr]).toEqual([0, ""]);
});

test("blanks around the URI of a file are none of it, and blanks in a PIN belong to it", async () => {
  const root = join(place.directory, "root");
  mkdirSync(root);
  const [uri, pin] = [join(place.directory, "uri"), join(place.directory, "pin")];
  writeFileSync(uri, " mongodb://127.0.0.1:9/?replicaSet=none \t\r\n\n", { mode: 0o600 });
  writeFileSync(pin, " 12 34 \n", { mode: 0o600 });
  const files = ["--mongo=external", `--mongo-uri-file=${uri}`, "--kek-provider=pkcs11", `--pkcs11-pin-file=${pin}`];
  const words = [...files, "--pkcs11-module=/usr/lib/none.so", "--pkcs11-token-label=hsm", `--root=${root}`];
  const ran = spawnSync(BINARY, ["install", ...words], { encoding: "utf8" });
  expect([ran.status, ran.stderr]).toEqual([0, expect.stringContaining("this is what will be done")]);
  const secrets = readFileSync(join(root, "etc/certautopilot/secrets.env"), "utf8");
  expect(secrets).toContain("CERTAUTOPILOT_DATABASE_URI=mongodb://127.0.0.1:9/?replicaSet=none\n");
  expect(readFileSync(join(root, "etc/certautopilot/pin"), "utf8")).toStartWith(" 12 34 ");
});

test("piped on a terminal, the program asks there, not in the pipe that the script came through", async () => {
  const line = `cat '${INSTALL_SH}' | dash -s -- ${FLAGS.join(" ")}`;
  const words = [join(import.meta.dir, "../harness/on_terminal.py"), "[]", "80x24", "--", "sh", "-c", line];
  const ran = Bun.spawnSync([process.env["CERTAUTOPILOT_TEST_PYTHON"] ?? "python3", ...words], { env: environment() });
  expect(JSON.parse(ran.stdout.toString())).toMatchObject({ code: 7 });
  expect(readFileSync(place.started, "utf8")).toContain("input /dev/tty\n");
});

test("an older musl is named when the program does not start on it", async () => {
  const old = join(place.directory, "old");
  layRelease(old, { "certautopilot-linux-x64-musl": "#!/bin/sh\nkill -SEGV $$\n" });
  const ldd = "printf 'musl libc (x86_64)\\nVersion 1.2.3\\n' >&2; exit 1";
  const uname = "case $1 in -s) echo Linux ;; -m) echo x86_64 ;; esac";
  const words = ["--root=/nowhere", `--base-url=${old}`];
  const ran = await piped(["dash"], words, environment(stubs({ ldd, uname })));
  rmSync(old, { recursive: true });
  expectRefused(ran, 1, /does not run on this host \(code 139\)/);
  expect(ran.stderr).toMatch(/hint: it needs musl 1\.2\.4 or newer .*; this host has musl 1\.2\.3;/);
});

/** Programs that lie: `name → script`. @returns their directory, for the front of PATH. */
function stubs(programs: Record<string, string>): string {
  const directory = mkdtempSync(join(scratch, "stubs-"));
  for (const [name, script] of Object.entries(programs)) {
    writeFileSync(join(directory, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(directory, name), 0o755);
  }
  return directory;
}

const GLIBC = "echo 'ldd (GNU libc) 2.36'";
const MUSL = "echo 'musl libc (x86_64)' >&2; exit 1";

test.each([
  ["Linux", "x86_64", GLIBC, "flags : avx2 bmi2", "linux-x64"],
  ["Linux", "x86_64", GLIBC, "flags : avx sse4_2", "linux-x64-baseline"],
  ["Linux", "x86_64", MUSL, "flags : avx2", "linux-x64-musl"],
  ["Linux", "aarch64", GLIBC, "Features : fp asimd", "linux-arm64"],
  ["Linux", "aarch64", MUSL, "", undefined],
  ["Linux", "riscv64", GLIBC, "", undefined],
  ["Linux", "i686", GLIBC, "", undefined],
  ["Darwin", "arm64", "exit 127", "", undefined],
  ["FreeBSD", "amd64", "exit 1", "", undefined],
])("%s on %s takes its row of the table", async (system, machine, ldd, cpuinfo, target) => {
  const uname = `case $1 in -s) echo ${system} ;; -m) echo ${machine} ;; esac`;
  // The script asks /proc/cpuinfo through grep alone.
  const grep = `[ "$#" = 4 ] && [ "$4" = /proc/cpuinfo ] && echo '${cpuinfo}' | exec /bin/grep "$1" "$2" "$3"`;
  const ran = await piped(["dash"], FLAGS, environment(stubs({ uname, ldd, grep })));
  if (target === undefined) return expectRefused(ran, 1, `there is no release file for ${system} on ${machine}`);
  expect(ran.stderr).toContain(`release file: certautopilot-${target}, version ${RELEASED}`);
  expect(ran.code).toBe(7);
});

describe("from a URL", () => {
  const asked: string[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname } = new URL(request.url);
      asked.push(pathname);
      if (pathname.startsWith("/hangs")) return new Promise(() => undefined);
      const file = Bun.file(join(base, pathname));
      return existsSync(join(base, pathname)) ? new Response(file) : new Response("no", { status: 404 });
    },
  });
  afterAll(() => void server.stop(true));
  const url = `http://127.0.0.1:${server.port}`;

  /** Every program that the script may use but curl; wget is busybox's unless told. */
  function withoutCurl(wget = "busybox"): string {
    const directory = mkdtempSync(join(scratch, "programs-"));
    for (const name of [
      "awk",
      "cat",
      "chmod",
      "cp",
      "cut",
      "dash",
      "dirname",
      "env",
      "grep",
      "id",
      "ldd",
      "mktemp",
      "mv",
    ])
      symlinkSync(Bun.which(name) ?? "", join(directory, name));
    for (const name of ["openssl", "readlink", "rm", "sed", "setsid", "sh", "stat", "tr", "uname"])
      symlinkSync(Bun.which(name) ?? "", join(directory, name));
    symlinkSync(Bun.which(wget) ?? "", join(directory, "wget"));
    return directory;
  }
  const fetched = [`/v${RELEASED}/SHA256SUMS`, expect.stringMatching(/^\/v[^/]+\/certautopilot-linux-[\w-]+$/)];

  test("the sums and one file are fetched, by curl or by wget", async () => {
    for (const env of [environment(), { ...environment(), PATH: withoutCurl() }]) {
      rmSync(place.started, { force: true });
      asked.length = 0;
      const ran = await piped(["dash"], ["--root=/nowhere", `--base-url=${url}/`], env);
      expect({ code: ran.code, said: ran.stderr, asked }).toMatchObject({ code: 7, asked: fetched });
      expect(readdirSync(place.temporary)).toEqual([]);
    }
  });

  test("what is not there, and what could be changed on its way, is refused", async () => {
    const refused: [string, number, RegExp][] = [
      ["http://mirror.example/releases", 2, /neither https nor a directory/],
      ["http://127.0.0.1.mirror.example/", 2, /neither https nor a directory/],
      ["http://127.0.0.1@mirror.example/", 2, /neither https nor a directory/],
      ["ftp://mirror.example/", 2, /neither https nor a directory/],
      ["https://me:secret@mirror.example/", 2, /a user name or a password/],
      ['https://mirror.example/"; touch x', 2, /a blank, a quote/],
    ];
    for (const [address, code, message] of refused)
      expectRefused(await piped(["dash"], ["--root=/nowhere", `--base-url=${address}`]), code, message);
    const ran = await piped(["dash"], ["--root=/nowhere", "--base-url=https://127.0.0.1:9"], {
      ...environment(),
      PATH: withoutCurl(),
    });
    expectRefused(ran, 1, /wget may not check certificates/);
  });

  test.each([
    ["curl", () => environment(), /404/, /onnect/],
    ["GNU wget", () => ({ ...environment(), PATH: withoutCurl("wget") }), /ERROR 404/, /Connection refused/],
    ["busybox wget", () => ({ ...environment(), PATH: withoutCurl() }), /404/, /Connection refused/],
  ])("what is not fetched is refused with the reason that %s has", async (_name, env, absent, refused) => {
    const reasons: [string, RegExp][] = [
      [`${url}/elsewhere`, absent],
      ["http://127.0.0.1:9", refused],
    ];
    for (const [address, reason] of reasons) {
      const ran = await piped(["dash"], ["--root=/nowhere", `--base-url=${address}`], env());
      expectRefused(ran, 1, /^error: .*SHA256SUMS was not fetched: .+$/m);
      expect(/^error: .*$/m.exec(ran.stderr)?.[0]).toMatch(reason);
    }
  });

  test("interrupted, it leaves nothing", async () => {
    asked.length = 0;
    const interrupt = new AbortController();
    const ran = piped(["bash"], ["--root=/nowhere", `--base-url=${url}/hangs`], environment(), interrupt.signal);
    await until("the first request", async () => asked.length === 1);
    interrupt.abort();
    expect((await ran).code).toBe(143);
    expectNothing();
  });
});

/** setsid has forked: the shell leads a group of its own. */
function groupOf(pid: number): number {
  const child = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return -Number(child);
}
