import { type ArgsDef, type ParsedArgs, parseArgs } from "citty";
import { COMMON, checkArguments } from "./arguments.ts";
import { createOutput, type Output } from "./output.ts";

/** A command as this program defines it: citty's flags, read strictly. */
export interface Leaf {
  readonly kind: "leaf";
  readonly summary: string;
  readonly args: ArgsDef;
  /** @returns the exit code, 0 unless the result itself says otherwise (`kek verify` that finds a problem). */
  run(argv: string[], name: string): Promise<number>;
}

export interface Branch {
  readonly kind: "branch";
  readonly summary: string;
  readonly commands: Record<string, () => Promise<Leaf | Branch>>;
}

export interface Invocation<T extends ArgsDef> {
  args: ParsedArgs<T & typeof COMMON>;
  argv: string[];
  output: Output;
}

export function leaf<const T extends ArgsDef>(definition: {
  summary: string;
  args: T;
  mayRepeat?: string[];
  run(invocation: Invocation<T>): Promise<number>;
}): Leaf {
  const args = { ...definition.args, ...COMMON };
  return {
    kind: "leaf",
    summary: definition.summary,
    args,
    async run(argv, name) {
      checkArguments(argv, args, name, definition.mayRepeat);
      const parsed = parseArgs(argv, args) as unknown as Invocation<T>["args"];
      const output = createOutput((parsed as { json?: boolean }).json === true);
      return await definition.run({ args: parsed, argv, output });
    },
  };
}
