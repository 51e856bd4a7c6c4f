import { Buffer } from "node:buffer";
import { existsSync } from "node:fs";
import { must, run } from "./command.ts";
import type { UnitState } from "./current_state.ts";

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

/**
 * What the last start of a unit said, and what systemd said about it: nothing of the starts before.
 * @param since by the host's clock, before that start.
 */
export async function journalOfStart(unit: string, since: Date, lines = 15): Promise<string[]> {
  const start = (await run(["systemctl", "show", unit, "--property=InvocationID", "--value"])).stdout.trim();
  // Everything that was sent until now is in the journal afterwards.
  await run(["journalctl", "--sync"]);
  const seconds = Math.floor(since.getTime() / 1000);
  const { stdout } = await run(["journalctl", `--unit=${unit}`, `--since=@${seconds}`, "--no-pager", "--output=json"]);
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as JournalEntry)
    .filter((entry) => startOf(entry) === undefined || startOf(entry) === start)
    .map(({ MESSAGE }) => (typeof MESSAGE === "string" ? MESSAGE : Buffer.from(MESSAGE ?? []).toString()))
    .slice(-lines);
}

// ---------------------------------------------------------------------------------------------------------------------

/** See systemd.journal-fields(7). What is not UTF-8 comes as an array of bytes. */
interface JournalEntry {
  MESSAGE?: string | number[] | null;
  INVOCATION_ID?: string;
  _SYSTEMD_INVOCATION_ID?: string;
}

/** Of a process that ended before journald looked at it only the unit is known. */
function startOf(entry: JournalEntry): string | undefined {
  return entry.INVOCATION_ID ?? entry._SYSTEMD_INVOCATION_ID;
}
