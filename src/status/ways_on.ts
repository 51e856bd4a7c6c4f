import type { RotationDoc } from "../store/documents.ts";

/** What an operator can do with an open rotation: pure, one wording for every command. */

type Open = Pick<RotationDoc, "from" | "to" | "phase" | "state" | "mends">;

export function resumeCommand({ to }: Pick<Open, "to">): string {
  return `certautopilot kek rotate --to-version=${to}`;
}

export function reverseCommand({ from, to }: Pick<Open, "from" | "to">): string {
  return `certautopilot kek rotate --to-version=${from} --from-version=${to}`;
}

export const CANCEL_COMMAND = "certautopilot kek rotate --cancel";

/** A command, and what it is for. */
export interface Way {
  what: string;
  command: string;
}

/** Every way on from a rotation that nobody leads; they read as one sentence. */
export function ways(rotation: Open): Way[] {
  const onward = { what: "go on", command: resumeCommand(rotation) };
  if (rotation.phase === 1) return [onward, { what: "or stop", command: CANCEL_COMMAND }];
  if (rotation.mends === true) return [onward];
  const back = reverseCommand(rotation);
  if (rotation.phase === 3) {
    return [
      { ...onward, what: "let it complete" },
      { what: "and only then go back", command: back },
    ];
  }
  return [onward, { what: "or back", command: back }];
}

/** The same as one line. */
export function waysOn(rotation: Open): string {
  return ways(rotation)
    .map(({ what, command }) => `${what}: ${command}`)
    .join("  ");
}

/** What can be done with one that goes on by itself. In phase 3 there is nothing to do but to let it complete. */
export function waysOfLed({ phase }: Pick<Open, "phase">): Way[] {
  return phase === 3 ? [] : [{ what: "stop it", command: CANCEL_COMMAND }];
}
