import { KekError } from "../errors/errors.ts";
import type { Problem } from "../protocol/problem.ts";

/** A refusal that carries every problem, for `--json`; its message names the first. */
export class RefusedError extends KekError {
  readonly problems: Problem[];
  constructor(message: string, hint: string, problems: Problem[]) {
    super("refused", message, hint);
    this.problems = problems;
  }
}

export function refusal(problems: Problem[]): KekError {
  const [first] = problems as [Problem, ...Problem[]];
  if (problems.length === 1) return new RefusedError(first.message, first.hint, problems);
  return new RefusedError(
    `${problems.length} problems, nothing was changed; the first: ${first.message}`,
    first.hint,
    problems,
  );
}
