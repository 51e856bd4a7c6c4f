import type { RotationDoc } from "./documents.ts";

/** What an operator can do with an open rotation: pure, one wording for every command. */

type Open = Pick<RotationDoc, "from" | "to" | "phase" | "state" | "repairs">;

export interface NextStep {
  /** In a word or two: go on, stop, back. */
  does: string;
  command: string;
}

/** Protocol: "The life of one rotation". Model: acquire. */
export function resumeCommand({ to }: Pick<Open, "to">): string {
  return `certautopilot kek rotate --to-version=${to}`;
}

/** Protocol: "The life of one rotation". Model: reverses. */
export function reverseCommand({ from, to }: Pick<Open, "from" | "to">): string {
  return `certautopilot kek rotate --to-version=${from} --from-version=${to}`;
}

export const CANCEL_COMMAND = "certautopilot kek rotate --cancel";

/**
 * Every way on from here while nobody leads it, as one line.
 * Protocol: "The life of one rotation". Model: left out.
 */
export function nextStepsText(rotation: Open): string {
  return nextSteps(rotation, false)
    .map(({ does, command }) => `${does}: ${command}`)
    .join(rotation.phase === 3 ? "  and only " : "  or ");
}

/**
 * @param led whether a coordinator is at work: then it continues automatically, and can be stopped before phase 3.
 * Protocol: "The life of one rotation". Model: left out.
 */
export function nextSteps(rotation: Open, led: boolean): NextStep[] {
  const stop = { does: "stop", command: CANCEL_COMMAND };
  if (led) return rotation.phase === 3 ? [] : [stop];
  const goOn = { does: "go on", command: resumeCommand(rotation) };
  const back = { does: "back", command: reverseCommand(rotation) };
  if (rotation.phase === 1) return [goOn, stop];
  if (rotation.repairs === true && rotation.phase === 2) return [goOn, stop];
  if (rotation.phase === 3)
    return [
      { ...goOn, does: "let it complete" },
      { ...back, does: "then go back" },
    ];
  return [goOn, back];
}
