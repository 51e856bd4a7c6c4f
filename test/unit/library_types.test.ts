import { expect, test } from "bun:test";
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { scratchDirectory } from "../harness/scratch.ts";

const ROOT = join(import.meta.dir, "../..");

test("a user's strict program compiles against the package with a driver of another major version than ours", async () => {
  const project = scratchDirectory();
  const modules = join(project, "node_modules");
  mkdirSync(modules, { recursive: true });
  // As `npm install <path of a checkout>` lays it down.
  symlinkSync(ROOT, join(modules, "certautopilot"));
  symlinkSync(join(ROOT, "node_modules/mongodb-6"), join(modules, "mongodb"));
  symlinkSync(join(ROOT, "node_modules/@types"), join(modules, "@types"));
  copyFileSync(join(ROOT, "test/types/service.ts"), join(project, "service.ts"));
  // And what README.md shows, word for word.
  const shown = /^```ts\n([\s\S]*?)^```$/m.exec(readFileSync(join(ROOT, "README.md"), "utf8"))?.[1] ?? "";
  expect(shown).toContain("encryption.collection<User>");
  writeFileSync(join(project, "readme.ts"), shown);
  // What docs/library.md names, and what `bun init` writes.
  const compilerOptions = {
    lib: ["ESNext"],
    target: "ESNext",
    module: "Preserve",
    moduleResolution: "bundler",
    allowImportingTsExtensions: true,
    verbatimModuleSyntax: true,
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    noUncheckedIndexedAccess: true,
    noImplicitOverride: true,
    types: ["bun"],
  };
  writeFileSync(
    join(project, "tsconfig.json"),
    JSON.stringify({ compilerOptions, files: ["service.ts", "readme.ts"] }),
  );
  const tsc = Bun.spawn([join(ROOT, "node_modules/.bin/tsc"), "-p", project], { stdout: "pipe", cwd: project });
  expect(await new Response(tsc.stdout).text()).toBe("");
  expect(await tsc.exited).toBe(0);
}, 170_000);
