import process from "node:process";
import { stripVTControlCharacters } from "node:util";
import { defineCommand, renderUsage } from "citty";
import { crashPointAsked } from "../config/environment.ts";
import { armCrashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import { shown } from "./arguments.ts";
import type { Branch, Leaf } from "./command.ts";
import { keepOutOfCoreDumps } from "./core_dump.ts";
import { reportError } from "./output.ts";

/** The tree of commands. Each is loaded only when it is called, so that a small one starts fast. */
const PROGRAM: Branch = {
  kind: "branch",
  summary: "Changes the key-encryption key of a live fleet whose secrets live in MongoDB",
  commands: {
    kek: async () => ({
      kind: "branch",
      summary: "KEK versions: is the fleet ready, rotate, status, make in an HSM, remove, fields",
      commands: {
        verify: async () => (await import("./kek_verify.ts")).default,
        rotate: async () => (await import("./kek_rotate.ts")).default,
        status: async () => (await import("./kek_status.ts")).default,
        "pkcs11-init": async () => (await import("./kek_pkcs11_init.ts")).default,
        remove: async () => (await import("./kek_remove.ts")).default,
        field: async () => ({
          kind: "branch",
          summary: "Fields with envelopes: list, register, unregister",
          commands: {
            list: async () => (await import("./kek_field_list.ts")).default,
            add: async () => (await import("./kek_field_add.ts")).default,
            remove: async () => (await import("./kek_field_remove.ts")).default,
          },
        }),
      },
    }),
    serve: async () => (await import("./serve.ts")).default,
    audit: async () => ({
      kind: "branch",
      summary: "The audit log: walk its chain, list its events",
      commands: {
        verify: async () => (await import("./audit_verify.ts")).default,
        list: async () => (await import("./audit_list.ts")).default,
      },
    }),
    install: async () => (await import("./install.ts")).default,
    update: async () => (await import("./update.ts")).default,
    uninstall: async () => (await import("./uninstall.ts")).default,
    export: async () => (await import("./export.ts")).default,
    import: async () => (await import("./import.ts")).default,
    demo: async () => (await import("./demo.ts")).default,
  },
};

/** @returns the exit code. Never throws. */
export async function runProgram(argv: string[]): Promise<number> {
  keepOutOfCoreDumps();
  try {
    if (import.meta.crashPoints) armAsked();
    return await walk(PROGRAM, [], argv);
  } catch (thrown) {
    return reportError(thrown, { json: argv.includes("--json"), debug: argv.includes("--debug") });
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** A variable that a test has left behind would end this process without a message. */
function armAsked(): void {
  const armed = armCrashPoint(crashPointAsked());
  if (armed !== undefined)
    process.stderr.write(`warning: CERTAUTOPILOT_TEST_CRASH_AT kills this process at ${armed}\n`);
}

async function walk(node: Branch | Leaf, path: string[], argv: string[]): Promise<number> {
  const name = path.join(" ");
  const asked = (word: string | undefined) => word === "--help" || word === "-h";
  if (node.kind === "leaf" ? argv.some(asked) : asked(argv[0])) {
    const usage = await usageOf(node, name);
    process.stdout.write(`${process.stdout.isTTY === true ? usage : stripVTControlCharacters(usage)}\n`);
    return 0;
  }
  if (node.kind === "leaf") return await node.run(argv, name);
  const [word, ...rest] = argv;
  const known = Object.keys(node.commands).join(", ");
  if (word === undefined)
    throw new KekError(
      "usage",
      `${["certautopilot", ...path].join(" ")} needs a command: ${known}`,
      "see: certautopilot --help",
    );
  const next = Object.hasOwn(node.commands, word) ? node.commands[word] : undefined;
  if (next === undefined) {
    const what = word.startsWith("-")
      ? `unknown flag ${word.split("=")[0]} before a command`
      : `unknown command${shown(word)}`;
    throw new KekError("usage", what, `the commands here are: ${known}`);
  }
  return await walk(await next(), [...path, word], rest);
}

async function usageOf(node: Branch | Leaf, name: string): Promise<string> {
  const meta = { name: ["certautopilot", name].filter(Boolean).join(" "), description: node.summary };
  if (node.kind === "leaf") return await renderUsage(defineCommand({ meta, args: node.args }));
  const subCommands: Record<string, ReturnType<typeof defineCommand>> = {};
  for (const [word, load] of Object.entries(node.commands)) {
    subCommands[word] = defineCommand({ meta: { name: word, description: (await load()).summary } });
  }
  return await renderUsage(defineCommand({ meta, subCommands }));
}
