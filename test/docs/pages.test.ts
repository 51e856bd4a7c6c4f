import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { HOST_ROOT } from "../harness/host.ts";
import { missingFrom } from "./output.ts";
import { type Block, blocksOf } from "./page.ts";
import { PAGES } from "./pages.ts";
import { SCENES } from "./scenes.ts";
import { Stage } from "./stage.ts";

/** Every command line of the operators' pages, run word for word, in the order of the pages, on hosts of their own. */

const ROOT = join(import.meta.dir, "../..");
/** Hosts that share a network, and so one story; other hosts' stories go on beside it. */
const STORIES = [["app-1", "app-2"], ["by-hand"], ["hsm-1"]];

interface Step {
  page: string;
  host: string;
  block: Block;
  /** What the page shows as its output. */
  shown: string | undefined;
}

const steps = PAGES.flatMap(stepsOf);

describe.skipIf(HOST_ROOT === undefined)("the pages", () => {
  const stage = new Stage();
  afterAll(async () => await stage.close());
  const stories = HOST_ROOT === undefined ? [] : STORIES.map((hosts) => play(stage, hosts));

  for (const [index, hosts] of STORIES.entries()) {
    const what = `what they say of ${hosts.join(" and ")} is so`;
    test(what, async () => expect(await stories[index]).toBeUndefined(), 900_000);
  }

  test("every block is about one of these hosts", () => {
    const known = STORIES.flat();
    const lost = steps.filter(({ host }) => !known.includes(host)).map(({ page, block }) => `${page}:${block.line}`);
    expect(lost).toEqual([]);
  });
});

// ---------------------------------------------------------------------------------------------------------------------

function stepsOf(page: string): Step[] {
  const blocks = blocksOf(page, readFileSync(join(ROOT, page), "utf8"));
  let host = "";
  return blocks.flatMap((block, index) => {
    host = block.marks.get("host") ?? host;
    const runs = block.language === "sh" || block.language === "js";
    if (!runs || block.marks.has("not run") || block.marks.has("run by")) return [];
    const next = blocks[index + 1];
    const shown = next?.language === "text" && next.follows ? next.text : undefined;
    return [{ page, host, block, shown }];
  });
}

/**
 * @returns the first thing that is not as the page says. What comes after it stands on it, and is run only for who looks:
 * with CERTAUTOPILOT_TEST_VERBOSE every block is told of.
 */
async function play(stage: Stage, hosts: string[]): Promise<string | undefined> {
  const verbose = process.env["CERTAUTOPILOT_TEST_VERBOSE"] !== undefined;
  let first: string | undefined;
  for (const step of steps.filter(({ host }) => hosts.includes(host))) {
    const at = `${step.page}:${step.block.line}`;
    const began = performance.now();
    const fault = await perform(stage, step).catch((thrown: Error) => thrown.message);
    if (verbose) console.error(`${at} ${Math.round(performance.now() - began)} ms ${fault ?? "ok"}`);
    if (fault !== undefined) first ??= `${at}: ${fault}`;
    if (first !== undefined && !verbose) break;
  }
  return first;
}

async function perform(stage: Stage, { page, host: name, block, shown }: Step): Promise<string | undefined> {
  const { marks } = block;
  const scene = marks.get("scene");
  if (scene !== undefined) {
    const known = SCENES[scene];
    if (known === undefined) return `there is no scene "${scene}"`;
    await known(stage, name);
  }
  if (block.language === "js") {
    await stage.inside(name, "shell", block.text.trim());
    return undefined;
  }
  const host = await stage.host(name);
  const ran = await host.run(["bash", "-c", scriptOf(page, block)]);
  const wanted = Number(marks.get("exit") ?? 0);
  const interrupted = marks.has("ctrl-c") && ran.code === 130;
  if (ran.code !== wanted && !interrupted) return `exit code ${ran.code}, not ${wanted}\n${ran.stdout}`;
  const missing = shown === undefined ? undefined : missingFrom(ran.stdout, shown);
  return missing === undefined ? undefined : `the output lacks: ${missing}\n${ran.stdout}`;
}

/** As typed into one shell that stays open for a page: what a block exports, and where it goes, is there in the next. */
function scriptOf(page: string, { text, marks }: Block): string {
  const kept = `/run/docs-${page.replaceAll(/\W/g, "-")}`;
  const begin = `exec 2>&1; [ ! -e ${kept} ] || . ${kept}; set -e`;
  const interrupt = marks.get("ctrl-c");
  if (interrupt !== undefined) {
    return `${begin}; exec timeout --preserve-status --signal=INT ${interrupt} bash -c ${quoted(text.trim())}`;
  }
  const types = marks.get("types");
  if (types !== undefined) {
    const words = types.split(/, */).map((word) => `sleep 1.5; echo ${quoted(word)}; `);
    const command = quoted(`bash -ec ${quoted(text)}`);
    return `${begin}; { ${words.join("")}sleep 1.5; } | script --quiet --return --command ${command} /dev/null`;
  }
  return `${begin}; trap '{ export -p; echo "cd $PWD"; } > ${kept}' EXIT\n${text}`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
