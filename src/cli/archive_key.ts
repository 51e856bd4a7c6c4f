import { readPrivateFile } from "../config/secrets_file.ts";
import { KekError } from "../errors/errors.ts";
import { checkIdentities, checkRecipients, type Seal, type Unseal } from "../transfer/sealed_stream.ts";
import type { Output } from "./output.ts";

/** What an archive is sealed and opened with: from files of mode 0600, or the terminal; never from the command line. */

/** Every secret of an install is behind it, and whoever has the file may try as often as they like. */
const LEAST_LENGTH = 12;

/** @throws KekError `usage`, `secret_unreadable`, `secrets_file_exposed`. */
export async function sealFrom(output: Output, file: string | undefined, recipients: string[]): Promise<Seal> {
  if (recipients.length > 0) {
    if (file !== undefined) throw both("--passphrase-file and --recipient");
    checkRecipients(recipients);
    return { recipients };
  }
  const passphrase = file === undefined ? await askTwice(output) : passphraseIn(file);
  if (passphrase.length < LEAST_LENGTH) {
    throw new KekError(
      "usage",
      `the passphrase has fewer than ${LEAST_LENGTH} characters`,
      "take five random words or more: every secret is behind it",
    );
  }
  // Every byte that is no UTF-8 is read as this one character: all that is left of such a passphrase may be its length.
  if (passphrase.includes("\ufffd")) {
    throw new KekError(
      "usage",
      "the passphrase is not text in UTF-8: anybody could guess what is read of it",
      "save the file, or set the terminal, as UTF-8; or take letters, digits and blanks only",
    );
  }
  return { passphrase };
}

/** @throws KekError as `sealFrom`. */
export async function unsealFrom(
  output: Output,
  file: string | undefined,
  identityFile: string | undefined,
): Promise<Unseal> {
  if (identityFile !== undefined) {
    if (file !== undefined) throw both("--passphrase-file and --identity-file");
    const lines = readPrivateFile(identityFile, "identity file").split("\n");
    const identities = lines.map((line) => line.trim()).filter((line) => line !== "" && !line.startsWith("#"));
    if (identities.length === 0)
      throw new KekError(
        "archive_unreadable",
        `identity file ${identityFile} is empty`,
        "name the file that `age-keygen` made",
      );
    checkIdentities(identities, identityFile);
    return { identities };
  }
  if (file !== undefined) return { passphrase: passphraseIn(file) };
  return { passphrase: (await output.askSecret("Passphrase of the archive: ")) ?? none("--identity-file") };
}

// ---------------------------------------------------------------------------------------------------------------------

async function askTwice(output: Output): Promise<string> {
  const first = (await output.askSecret("Passphrase for the archive: ")) ?? none("--recipient");
  const second = await output.askSecret("The same once more: ");
  if (first === second) return first;
  throw new KekError("usage", "the two passphrases are not the same", "run it again, and type the same one twice");
}

/** The file's first line, as `age` has it. */
function passphraseIn(file: string): string {
  const passphrase = readPrivateFile(file, "passphrase file").split(/\r?\n/)[0] ?? "";
  if (passphrase === "")
    throw new KekError("usage", `passphrase file ${file} is empty`, "write the passphrase into its first line");
  return passphrase;
}

function none(other: string): never {
  throw new KekError(
    "usage",
    "no passphrase was given, and there is no terminal to ask on",
    `give --passphrase-file=FILE (mode 0600), or ${other}`,
  );
}

function both(which: string): KekError {
  return new KekError("usage", `${which} each say what opens the archive`, "give one of them");
}
