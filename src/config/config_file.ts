import { parseDocument } from "yaml";
import { KekError } from "../errors/errors.ts";
import type { Tree } from "./variables.ts";

/** config.yaml as text that an operator may have written in: what is changed is changed in place, comments stay. Pure. */

/** Values by their path, as in `["server", "listen"]`. */
export type ConfigChanges = [path: [string, ...string[]], value: string][];

/** @returns the text with these values set; the very same text when it has them already. @throws KekError `config_invalid`. */
export function editConfig(text: string, changes: ConfigChanges): string {
  const document = parseDocument(text);
  if (document.errors.length > 0) throw notYaml();
  const open = changes.filter(([path, value]) => document.getIn(path) !== value);
  if (open.length === 0) return text;
  try {
    for (const [path, value] of open) document.setIn(path, value);
  } catch {
    // The library's message may quote the file.
    throw notYaml();
  }
  return document.toString({ lineWidth: 0 });
}

/** The tree of a text. @throws KekError `config_invalid`. */
export function readConfigText(text: string): Tree {
  const document = parseDocument(text);
  const tree: unknown = document.errors.length > 0 ? undefined : document.toJS();
  if (tree === null) return {};
  if (typeof tree !== "object" || Array.isArray(tree)) throw notYaml();
  return tree as Tree;
}

// ---------------------------------------------------------------------------------------------------------------------

function notYaml(): KekError {
  return new KekError(
    "config_invalid",
    "the configuration file is not a YAML mapping",
    "repair /etc/certautopilot/config.yaml",
  );
}
