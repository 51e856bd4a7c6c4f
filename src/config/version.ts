import manifest from "../../package.json" with { type: "json" };

/** Set by `bun build --define`: which release file this program is. Not there in a checkout. */
declare const CERTAUTOPILOT_TARGET: string | undefined;

export const VERSION: string = manifest.version;

/** The release file that this program was built as, without its prefix (`linux-x64-musl`); undefined in a checkout. */
export const TARGET: string | undefined =
  typeof CERTAUTOPILOT_TARGET === "undefined" ? undefined : CERTAUTOPILOT_TARGET;
