import { beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import { RELEASES } from "../../src/install/release.ts";
import { keksIn } from "../harness/hsm_install.ts";
import { testInstall } from "../harness/program.ts";
import { buildRelease, releaseWith, TARGET_HERE } from "../harness/release.ts";
import { INSTALL_SH, RELEASED } from "../harness/release_files.ts";
import { scratchDirectory } from "../harness/scratch.ts";
import { SOFTHSM, testToken } from "../harness/token.ts";

/** What ./scripts/release makes: each program starts and makes a key in a token, and it can be built again byte for byte. */

const MUSL = process.env["CERTAUTOPILOT_TEST_MUSL_ROOT"];
const ARM64 = process.env["CERTAUTOPILOT_TEST_ARM64_ROOT"];
const scratch = scratchDirectory();
/** Of those that the release at hand has: alone, this file tries all. */
const TARGETS = ["linux-x64", "linux-x64-baseline", "linux-x64-musl", "linux-arm64"];
let release: string;

beforeAll(async () => {
  release = await releaseWith(join(scratch, "first"), ARM64 === undefined ? [TARGET_HERE, "linux-x64-musl"] : TARGETS);
}, 600_000);

const built = () => TARGETS.filter((target) => existsSync(program(target)));
const program = (target: string) => join(release, `certautopilot-${target}`);
const digestsOf = (directory: string) => readFileSync(join(directory, "SHA256SUMS"), "utf8").trim().split("\n");

test("SHA256SUMS has every file, and install.sh is of this version and fetches from where update does", () => {
  const files = readdirSync(release).filter((name) => name !== "SHA256SUMS");
  expect(files.sort()).toEqual(
    ["LICENSE", "certautopilot.cdx.json", "install.sh", ...built().map((target) => `certautopilot-${target}`)].sort(),
  );
  const digests = files.map(
    (name) =>
      `${createHash("sha256")
        .update(readFileSync(join(release, name)))
        .digest("hex")}  ${name}`,
  );
  expect(built()).toContain(TARGET_HERE);
  expect(digestsOf(release).sort()).toEqual(digests.sort());
  expect(RELEASED).toBe(manifest.version);
  expect(readFileSync(INSTALL_SH, "utf8")).toContain(`\nBASE_URL=${RELEASES}\n`);
});

test("the list of parts names every package that is in the programs, with licence and hash", () => {
  const bom = JSON.parse(readFileSync(join(release, "certautopilot.cdx.json"), "utf8"));
  expect([bom.bomFormat, bom.specVersion, bom.metadata.component.version]).toEqual(["CycloneDX", "1.6", RELEASED]);
  const parts: Record<string, unknown>[] = bom.components;
  const refs = parts.map((part) => part["bom-ref"]);
  for (const [name, version] of Object.entries(manifest.dependencies))
    expect(refs).toContain(`pkg:npm/${name.replace("@", "%40")}@${version}`);
  expect(refs).toContain(`pkg:npm/%40oven/bun-linux-aarch64@${manifest.devDependencies.bun}`);
  for (const part of parts) {
    expect(part).toMatchObject({ type: "library", name: expect.any(String), version: expect.any(String) });
    expect(part["licenses"]).toHaveLength(1);
    if (String(part["purl"]).startsWith("pkg:npm/"))
      expect(part["hashes"]).toEqual([{ alg: "SHA-512", content: expect.stringMatching(/^[0-9a-f]{128}$/) }]);
  }
  for (const { ref, dependsOn } of bom.dependencies.slice(1))
    for (const each of [ref, ...dependsOn]) expect(refs).toContain(each);
  for (const name of ["typescript", "@biomejs/biome"]) expect(parts.some((part) => part["name"] === name)).toBe(false);
});

test("the same sources in another directory give the same bytes", async () => {
  const copy = join(scratch, "copy");
  const names = ["LICENSE", "install.sh", "package.json", "package-lock.json", "tsconfig.json", "scripts", "src"];
  const modules =
    'for name in node_modules/* node_modules/.installed-from; do cp -al "$name" "$1/node_modules/" 2>/dev/null || cp -a "$name" "$1/node_modules/"; done';
  const script = `umask 077; mkdir -p "$1/node_modules"; cp -R ${names.join(" ")} "$1/"; ${modules}; cp -R node_modules/.bin "$1/node_modules/"`;
  const made = Bun.spawnSync(["sh", "-ec", script, "sh", copy], {
    cwd: join(import.meta.dir, "../.."),
    stderr: "pipe",
  });
  expect([made.exitCode, made.stderr.toString()]).toEqual([0, ""]);
  const again = await buildRelease(join(scratch, "second"), [TARGET_HERE], copy);
  const first = digestsOf(release);
  expect(digestsOf(again).filter((line) => !first.includes(line))).toEqual([]);
}, 300_000);

describe.skipIf(MUSL === undefined)("each program in its place", () => {
  const WITH: Record<string, string[]> = {
    "linux-x64": [],
    // A processor of 2008, without AVX.
    "linux-x64-baseline": ["qemu-x86_64-static", "-cpu", "Nehalem"],
    "linux-arm64": ["qemu-aarch64-static", "-L", `${ARM64}`],
    "linux-x64-musl": [`${MUSL}/lib/ld-musl-x86_64.so.1`, "--library-path", `${MUSL}/usr/lib`],
  };
  const init = async (target: string, version: number, variables: Record<string, string>) => {
    const words = ["kek", "pkcs11-init", `--version=${version}`];
    const child = Bun.spawn([...(WITH[target] ?? []), program(target), ...words], {
      env: { PATH: process.env["PATH"] ?? "", ...variables },
      stdout: "pipe",
      stderr: "pipe",
    });
    return { code: await child.exited, stderr: await new Response(child.stderr).text() };
  };

  test("makes its key in a SoftHSM token of its own kind; that for musl says what it needs", async () => {
    const install = await testInstall();
    const token = testToken({ direct: true });
    const variables = { ...install.variables([], undefined as never), ...token.variables };
    const glibc = built().filter((target) => target !== "linux-x64-musl");
    expect(glibc.includes("linux-arm64")).toBe(ARM64 !== undefined);
    // The first locks the database; the others take their time.
    for (const target of glibc) {
      const made = await init(target, glibc.indexOf(target) + 1, variables);
      expect([target, made]).toEqual([target, { code: 0, stderr: expect.any(String) }]);
    }
    expect(keksIn(token).length).toBe(glibc.length);

    const musl = await init("linux-x64-musl", glibc.length + 1, variables);
    expect([musl.code, musl.stderr]).toEqual([
      8,
      expect.stringContaining(`the PKCS#11 module ${SOFTHSM} cannot be used: dlopen:`),
    ]);
    expect(musl.stderr).toContain("that the module is built for musl as this program is");
  }, 180_000);
});
