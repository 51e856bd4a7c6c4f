import { existsSync } from "node:fs";
import { must, run } from "./command.ts";
import type { UnitState } from "./found.ts";

/** The host's systemd, by its own programs. */

export function systemdRuns(): boolean {
  return existsSync("/run/systemd/system");
}

export async function unitState(unit: string): Promise<UnitState> {
  const enabled = (await run(["systemctl", "is-enabled", "--quiet", unit])).code === 0;
  const active = (await run(["systemctl", "is-active", "--quiet", unit])).code === 0;
  return { enabled, active };
}

/** `ActiveState`, `SubState` and `Result`, as in `activating`, `auto-restart`, `exit-code`. */
export async function unitFacts(unit: string): Promise<{ active: string; sub: string; status: string }> {
  const { stdout } = await run(["systemctl", "show", unit, "--property=ActiveState,SubState,ExecMainStatus"]);
  const value = (name: string) => new RegExp(`^${name}=(.*)$`, "m").exec(stdout)?.[1] ?? "";
  return { active: value("ActiveState"), sub: value("SubState"), status: value("ExecMainStatus") };
}

export async function systemctl(...args: string[]): Promise<void> {
  await must(["systemctl", ...args], { limitMs: 200_000 });
}

/** What the last start of a unit said, and what systemd said about it: nothing of the starts before. */
export async function journalOfStart(unit: string, lines = 15): Promise<string[]> {
  const start = (await run(["systemctl", "show", unit, "--property=InvocationID", "--value"])).stdout.trim();
  if (start === "") return [];
  const of = [`_SYSTEMD_INVOCATION_ID=${start}`, "+", `INVOCATION_ID=${start}`];
  const { stdout } = await run(["journalctl", ...of, "--lines", String(lines), "--no-pager", "--output", "cat"]);
  return stdout.trim() === "" ? [] : stdout.trimEnd().split("\n");
}
