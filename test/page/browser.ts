import { afterAll, expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { PAGE_PATH } from "../harness/address.ts";

/** Debian's chromium on the KEK Versions page, and what is asked of the page in every state. */

const ROOT = join(import.meta.dir, "../..");
/** Screenshots, to be looked at. */
const OUTPUT = join(ROOT, "test-output/page");
const AXE = readFileSync(join(ROOT, "node_modules/axe-core/axe.min.js"), "utf8");

export interface Viewed {
  page: Page;
  /** What the console said that it must not say: errors, and violations of the content security policy. */
  complaints: string[];
}

let started: Promise<Browser> | undefined;

/** A tab of its own on the page of a `serve` process. */
export async function open(address: string, options: BrowserContextOptions = {}): Promise<Viewed> {
  const browser = await launched();
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  if (options.javaScriptEnabled !== false) {
    await page.addInitScript({ content: AXE });
    await page.addInitScript({ content: TELL_VIOLATIONS });
  }
  await page.goto(address + PAGE_PATH);
  return { page, complaints };
}

/**
 * Holds for every state of the page: axe finds nothing in both colour schemes, nothing scrolls sideways on a screen or a
 * phone, the console is silent. Leaves a screenshot of each in test-output/page/.
 */
export async function inspect(
  { page, complaints }: Viewed,
  name: string,
  server: "here" | "gone" = "here",
): Promise<void> {
  mkdirSync(OUTPUT, { recursive: true });
  for (const [look, colorScheme, width, rules] of LOOKS) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    await page.screenshot({ path: join(OUTPUT, `${name}-${look}.png`), fullPage: true });
    if (rules !== "none") expect(await page.evaluate(violations, rules)).toEqual([]);
    const beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    expect(await page.evaluate<number>(beyond)).toBeLessThanOrEqual(0);
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 900 });
  // A browser complains itself about a server that is gone.
  if (server === "here") expect(complaints).toEqual([]);
}

/** What has the keyboard's focus. */
export async function focused({ page }: Viewed): Promise<string> {
  return await page.evaluate<string>("document.activeElement.id || document.activeElement.className");
}

/** Waits until a person reads this in a part of the page. */
export async function reads({ page }: Viewed, part: string, text: string | RegExp, timeoutMs = 60_000): Promise<void> {
  const found = page.locator(part).filter({ hasText: text });
  try {
    await found.first().waitFor({ timeout: timeoutMs });
  } catch {
    throw new Error(`${part} does not read ${text}, but: ${await page.locator(part).first().innerText()}`);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const TELL_VIOLATIONS = `document.addEventListener("securitypolicyviolation", (event) =>
  console.error("CSP: " + event.violatedDirective + " " + event.blockedURI))`;

const LOOKS = [
  ["light", "light", 1280, "all"],
  // The same but for its colours, and the same but for its width.
  ["dark", "dark", 1280, "colours"],
  ["phone", "light", 375, "none"],
] as const;

async function launched(): Promise<Browser> {
  started ??= chromium.launch({
    executablePath: chromiumPath(),
    args: [
      "--no-sandbox",
      "--disable-quic",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--headless",
      "--disable-gpu",
      "--no-first-run",
    ],
  });
  const browser = await started;
  afterAll(async () => {
    started = undefined;
    await browser.close();
  });
  return browser;
}

/** As `setup_chromium` of scripts/common.sh finds or installs it. */
function chromiumPath(): string {
  const given = process.env["CERTAUTOPILOT_TEST_CHROMIUM"] ?? Bun.which("chromium");
  if (given !== null && existsSync(given)) return given;
  throw new Error(
    "chromium is not on PATH: install it (Debian: chromium), or set CERTAUTOPILOT_TEST_CHROMIUM to its path",
  );
}

/** Runs in the page. */
async function violations(rules: "all" | "colours"): Promise<string[]> {
  type Found = { violations: { id: string; help: string; nodes: { html: string }[] }[] };
  const { axe } = globalThis as unknown as { axe: { run(options: object): Promise<Found> } };
  const found = await axe.run(rules === "all" ? {} : { runOnly: ["color-contrast", "link-in-text-block"] });
  return found.violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html).join(" ")}`);
}
