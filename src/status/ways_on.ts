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

/** Every way on from here, as one line. */
export function waysOn(rotation: Open): string {
  if (rotation.phase === 1) return `go on: ${resumeCommand(rotation)}  or stop: ${CANCEL_COMMAND}`;
  if (rotation.mends === true) return `go on: ${resumeCommand(rotation)}`;
  if (rotation.phase === 3)
    return `let it complete: ${resumeCommand(rotation)}  and only then go back: ${reverseCommand(rotation)}`;
  return `go on: ${resumeCommand(rotation)}  or back: ${reverseCommand(rotation)}`;
}
