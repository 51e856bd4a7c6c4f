import { expect, test } from "bun:test";
import { fleetSection } from "../../src/server/page/fleet_section.ts";
import { healthSection } from "../../src/server/page/health_section.ts";
import { summarySection } from "../../src/server/page/summary_section.ts";
import { viewOf } from "../../src/status/build_status_view.ts";
import type { StatusFacts } from "../../src/status/status_facts.ts";
import { facts, steady } from "../harness/facts.ts";

/** The page's sections say of one view what its health says. */

const text = async (markup: ReturnType<typeof fleetSection>) => (await markup).toString();

async function sections(seen: StatusFacts): Promise<{ health: string; glance: string; fleet: string }> {
  const view = viewOf(seen);
  return {
    health: await text(healthSection({ view, fault: undefined })),
    glance: await text(summarySection(view)),
    fleet: await text(fleetSection(view)),
  };
}

test("processes that declare the version to come are due, as the health has it, and not at fault", async () => {
  const { health, glance, fleet } = await sections(
    facts({ roster: [1, 2].map((number) => steady(number, { current_version: 2 })) }),
  );
  expect(health).toContain('class="health action_due"');
  expect(health).not.toContain("warning:");
  expect(glance).toContain("2 of 2");
  expect(fleet.match(/<span class="tag due">drift<\/span>/g)?.length).toBe(2);
  expect(fleet).not.toContain('class="off"');
  expect(fleet).not.toContain('class="bad"');
});

test("a silent process, one that writes another version, and one that only declares one", async () => {
  const { health, glance, fleet } = await sections(
    facts({
      roster: [
        steady(1, { age_ms: 45_000 }),
        steady(2, { write_version: 2 }),
        steady(3, { current_version: 2 }),
        steady(4),
      ],
    }),
  );
  expect(health).toMatch(/<strong>problem:<\/strong> .*api-1 .* is silent/);
  expect(health).toMatch(/<strong>warning:<\/strong> .*api-3 .* declares KEK version 2/);
  expect(glance).toContain("2 of 4");
  expect(fleet).toContain('<span class="tag bad">silent</span>');
  expect(fleet).toContain('<span class="tag bad">drift</span>');
  expect(fleet).toContain('<span class="tag due">drift</span>');
  expect(fleet).toContain('<span class="tag ok">ok</span>');
});
