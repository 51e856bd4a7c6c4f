import { KekError } from "../../src/errors/errors.ts";

/** The KekError that something ends with; undefined when it succeeds. Anything else that is thrown continues. */
export async function refusalOf(work: () => unknown): Promise<KekError | undefined> {
  try {
    await work();
  } catch (thrown) {
    if (thrown instanceof KekError) return thrown;
    throw thrown;
  }
  return undefined;
}

export async function codeOf(work: () => unknown): Promise<string | undefined> {
  return (await refusalOf(work))?.code;
}
