/**
 * The path of the KEK version in an envelope that is stored at `path`: what the index and the write fence are over.
 * Protocol: "What decides: the records". Model: at_version.
 */
export function versionKey(path: string): string {
  return `${path}.kek_version`;
}
