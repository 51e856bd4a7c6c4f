import type { ProcessView, StatusView } from "../../status/status_view.ts";

/** How a process stands, in a word, with the colour of its tag. Pure. */
export interface ProcessHealth {
  level: "ok" | "due" | "bad";
  word: string;
}

/** The words are those of `kek status`. A version that is declared before its rotation is no fault: the health has it as due. */
export function processHealthOf(
  { id, silent, problems }: ProcessView,
  { drift }: Pick<StatusView, "drift">,
): ProcessHealth {
  const own = drift.filter(({ process }) => process === id);
  if (silent) return { level: "bad", word: "silent" };
  if (problems.length > own.length)
    return { level: "bad", word: problems.length === 1 ? "1 problem" : `${problems.length} problems` };
  if (own.length === 0) return { level: "ok", word: "ok" };
  return { level: own.every(({ code }) => code === "declares_other") ? "due" : "bad", word: "drift" };
}
