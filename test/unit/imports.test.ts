import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

/** ARCHITECTURE.md's map, held: imports point one way, and one file alone imports what must have one owner. */

const SRC = join(import.meta.dir, "../../src");

/** Lower numbers may not import higher ones. */
const LEVEL: Record<string, number> = {
  util: 0,
  errors: 1,
  config: 2,
  protocol: 3,
  audit: 4,
  envelope: 4,
  providers: 5,
  store: 6,
  fleet: 7,
  status: 8,
  library: 8,
  rotation: 9,
  server: 9,
  install: 9,
  transfer: 9,
  demo: 10,
  "index.ts": 10,
  cli: 11,
  "main.ts": 12,
};

interface Import {
  file: string;
  target: string;
}

function imports(): Import[] {
  const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  return files.flatMap((file) => {
    const text = readFileSync(join(SRC, file), "utf8");
    const found = [...text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)].map((match) => match[1] as string);
    return found.map((target) => ({
      file,
      target: target.startsWith(".") ? relative(SRC, join(SRC, dirname(file), target)) : target,
    }));
  });
}

const top = (path: string) => path.split("/")[0] as string;

test("imports point one way", () => {
  const wrong = imports()
    .filter(({ target }) => target.endsWith(".ts") && !target.startsWith(".."))
    .filter(({ file, target }) => {
      const [from, to] = [LEVEL[top(file)], LEVEL[top(target)]];
      if (from === undefined || to === undefined) throw new Error(`no level for ${file} or ${target}`);
      // Folders of one level know nothing of each other.
      return to > from || (to === from && top(file) !== top(target));
    })
    .map(({ file, target }) => `${file} → ${target}`);
  expect(wrong).toEqual([]);
});

test("relative imports name their file", () => {
  const vague = imports().filter(
    ({ target, file }) =>
      !target.includes(":") &&
      target.includes("/") &&
      target.startsWith(top(file)) &&
      !/\.(ts|json|js|css|svg)$/.test(target),
  );
  expect(vague).toEqual([]);
});

test("each outside thing has one owner", () => {
  const owners = (target: RegExp) => [
    ...new Set(
      imports()
        .filter((entry) => target.test(entry.target))
        .map((entry) => entry.file),
    ),
  ];
  expect(owners(/^mongodb(\/|$)/).every((file) => file.startsWith("store/"))).toBe(true);
  expect(owners(/^consola/)).toEqual(["cli/output.ts"]);
  expect(owners(/^citty/).every((file) => file.startsWith("cli/"))).toBe(true);
  expect(owners(/^hono(\/|$)/).every((file) => file.startsWith("server/"))).toBe(true);
  expect(owners(/^@valibot\/to-json-schema$/)).toEqual(["server/api/openapi.ts"]);
  expect(owners(/^yaml$/).sort()).toEqual(["config/config_file.ts", "config/load.ts"]);
  expect(owners(/^prom-client$/)).toEqual(["server/metrics/exposition.ts"]);
  expect(owners(/^age-encryption$/)).toEqual(["transfer/sealed_stream.ts"]);
  expect(owners(/^pkcs11js$/)).toEqual(["providers/pkcs11/cryptoki.ts"]);
});

test("one file reads the environment, one ends the process", () => {
  const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  const containing = (pattern: RegExp) => files.filter((file) => pattern.test(readFileSync(join(SRC, file), "utf8")));
  expect(containing(/process\.env|Deno\.env|Bun\.env/)).toEqual(["config/environment.ts"]);
  expect(containing(/process\.exit\(/)).toEqual(["main.ts"]);
});

test("what is behind a provider is the business of its folder", () => {
  const inside = imports().filter(
    ({ target, file }) => /^providers\/pkcs11\//.test(target) && top(file) !== "providers",
  );
  expect(inside).toEqual([]);
  const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  const name = '"(env|pkcs11)"';
  const asking = new RegExp(`[=!]==? *${name}|${name} *[=!]==?|case ${name}`);
  const asked = files.filter((file) => asking.test(readFileSync(join(SRC, file), "utf8")));
  // Making a key and the number of sessions are for keys in a token: these two refuse the other provider.
  const allowed = ["cli/session.ts", "fleet/key_init.ts"];
  expect(asked.filter((file) => top(file) !== "providers" && !allowed.includes(file))).toEqual([]);
});

test("pure rules do no input or output", () => {
  const pure = [
    "status/fleet_problems.ts",
    "status/rewrap_rate.ts",
    "status/findings.ts",
    "status/rotation_view.ts",
    "status/health.ts",
    "status/build_status_view.ts",
    "server/metrics/fleet_metrics.ts",
    "server/metrics/process_metrics.ts",
    "server/metrics/rotation_metrics.ts",
    "server/metrics/version_metrics.ts",
    "audit/chain.ts",
    "config/config_file.ts",
    "install/undo_list.ts",
    "install/mongod_config.ts",
    "install/plan.ts",
    "install/step_collector.ts",
    "install/secrets.ts",
    "install/step.ts",
    "install/units.ts",
    "install/desired_state.ts",
    "audit/syslog_message.ts",
    "library/secret_fields.ts",
    "transfer/archive_format.ts",
    "transfer/plain_record.ts",
  ];
  const withIo = imports().filter(
    ({ file, target }) =>
      (pure.includes(file) || /^(envelope|protocol)\//.test(file)) &&
      /^(mongodb|node:(fs|net|http|child_process|worker_threads))/.test(target),
  );
  expect(withIo).toEqual([]);
});

test("the protocol imports nothing but errors, pure helpers and types", () => {
  const files = readdirSync(join(SRC, "protocol"), { encoding: "utf8" });
  const foreign = files.flatMap((file) => {
    const text = readFileSync(join(SRC, "protocol", file), "utf8");
    const values = [...text.matchAll(/^import (?!type\b)[^;]*? from "([^"]+)"/gm)].map((match) => match[1] as string);
    return values
      .filter((target) => !/^(\.\/|\.\.\/(errors|util)\/)/.test(target))
      .map((target) => `${file} → ${target}`);
  });
  expect(foreign).toEqual([]);
});
