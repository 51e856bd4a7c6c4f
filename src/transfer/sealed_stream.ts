import { Decrypter, Encrypter } from "age-encryption";
import { KekError, messageOf } from "../errors/errors.ts";

/** Bytes sealed as an age file, https://age-encryption.org/v1, and opened again, a piece at a time. The only importer of age-encryption. */

/** For whom an archive is: whoever knows the passphrase, or holds the identity of one of the recipients. */
export type Seal = { passphrase: string } | { recipients: string[] };
export type Unseal = { passphrase: string } | { identities: string[] };

const MAGIC = "age-encryption.org/v1\n";
const BY_PASSPHRASE = "-> scrypt ";

/** @throws KekError `usage` for what is no recipient. */
export function checkRecipients(recipients: string[]): void {
  const encrypter = new Encrypter();
  for (const recipient of recipients) {
    try {
      encrypter.addRecipient(recipient);
    } catch {
      const shown = recipient.startsWith("age1") ? ` ${recipient.slice(0, 80)}` : "";
      throw new KekError(
        "usage",
        `--recipient${shown} is no age recipient`,
        "give the public key that `age-keygen` prints: --recipient=age1…",
      );
    }
  }
}

/** @throws KekError `archive_unreadable` for what is no identity. Never shows any of it. */
export function checkIdentities(identities: string[], file: string): void {
  const decrypter = new Decrypter();
  identities.forEach((identity, index) => {
    try {
      decrypter.addIdentity(identity);
    } catch {
      throw new KekError(
        "archive_unreadable",
        `identity ${index + 1} of ${file} is no age identity`,
        "name the file that `age-keygen` made: a line of it begins with AGE-SECRET-KEY-1",
      );
    }
  });
}

/** @param plain pieces that are zeroed once they are sealed. */
export async function* sealed(plain: AsyncGenerator<Uint8Array>, seal: Seal): AsyncGenerator<Uint8Array> {
  const encrypter = new Encrypter();
  if ("passphrase" in seal) encrypter.setPassphrase(seal.passphrase);
  else for (const recipient of seal.recipients) encrypter.addRecipient(recipient);
  const source = new Source(plain, true);
  yield* source.through(await encrypter.encrypt(source.stream));
}

/** What an age file's payload is under: found once, since finding it by a passphrase takes a second and 256 MB. */
export type FileKey = Uint8Array;

/**
 * @param pieces the file from its beginning; they are given back.
 * @throws KekError `archive_unreadable` when it is no age file, or not for this key; `archive_damaged`.
 */
export async function findFileKey(pieces: AsyncGenerator<Uint8Array>, name: string, unseal: Unseal): Promise<FileKey> {
  const header = await headerOf(pieces, name);
  const byPassphrase = new TextDecoder("latin1").decode(header).startsWith(BY_PASSPHRASE, MAGIC.length);
  if (byPassphrase !== "passphrase" in unseal) throw otherKind(name, byPassphrase);
  const decrypter = new Decrypter();
  if ("passphrase" in unseal) decrypter.addPassphrase(unseal.passphrase);
  else for (const identity of unseal.identities) decrypter.addIdentity(identity);
  try {
    return await decrypter.decryptHeader(header);
  } catch (thrown) {
    throw /no identity matched/.test(messageOf(thrown)) ? notForThisKey(name, byPassphrase) : damaged(name);
  }
}

/** Returns once the header is read; the pieces of plaintext come as they are asked for. @throws KekError `archive_damaged`. */
export async function unsealed(
  pieces: AsyncGenerator<Uint8Array>,
  name: string,
  fileKey: FileKey,
): Promise<AsyncGenerator<Uint8Array>> {
  const decrypter = new Decrypter();
  decrypter.addIdentity({ unwrapFileKey: () => fileKey.slice() });
  const source = new Source(pieces, false);
  try {
    return damageOf(name, source, source.through(await decrypter.decrypt(source.stream)));
  } catch {
    await pieces.return(undefined);
    throw source.failure ?? damaged(name);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Pieces that may still be on their way through a stream when the next one is asked for. */
const UNDER_WAY = 2;

/** A generator as a stream that asks for one piece at a time. An error of the generator comes out of the far end as it was. */
class Source {
  readonly stream: ReadableStream<Uint8Array>;
  failure: unknown;
  /** To be zeroed once they cannot be on their way any more. */
  readonly #given: Uint8Array[] = [];

  /** @param wipe zeroes each piece when it has been taken up. */
  constructor(pieces: AsyncGenerator<Uint8Array>, wipe: boolean) {
    const given = this.#given;
    this.stream = new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          try {
            const next = await pieces.next();
            if (given.length >= UNDER_WAY) given.shift()?.fill(0);
            if (next.done === true) return controller.close();
            if (wipe) given.push(next.value);
            controller.enqueue(next.value);
          } catch (thrown) {
            this.failure = thrown;
            controller.error(thrown);
          }
        },
        cancel: async () => {
          await pieces.return(undefined);
        },
      },
      { highWaterMark: 0 },
    );
  }

  async *through(far: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
    try {
      for await (const piece of far) yield piece;
    } catch (thrown) {
      throw this.failure ?? thrown;
    } finally {
      for (const piece of this.#given.splice(0)) piece.fill(0);
    }
  }
}

/** What the file's own reading throws stays; anything else says that the bytes are not those that were sealed. */
async function* damageOf(name: string, source: Source, pieces: AsyncGenerator<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    for await (const piece of pieces) yield piece;
  } catch (thrown) {
    throw source.failure ?? (thrown instanceof KekError ? thrown : damaged(name));
  }
}

/** Up to the line of the MAC, which ends it. */
async function headerOf(pieces: AsyncGenerator<Uint8Array>, name: string): Promise<Uint8Array> {
  const MOST_BYTES = 1024 * 1024;
  let held = Buffer.alloc(0);
  for await (const piece of pieces) {
    held = Buffer.concat([held, piece]);
    if (!held.subarray(0, MAGIC.length).equals(Buffer.from(MAGIC).subarray(0, held.length))) break;
    const mac = held.indexOf("\n--- ");
    const end = mac < 0 ? mac : held.indexOf("\n", mac + 1);
    if (end > 0) return held.subarray(0, end + 1);
    if (held.length > MOST_BYTES) break;
  }
  if (held.indexOf(MAGIC) === 0) throw damaged(name);
  throw new KekError("archive_unreadable", `${name} is no archive`, "name the file that `certautopilot export` wrote");
}

export function damaged(name: string, what = "it was cut short or changed"): KekError {
  return new KekError(
    "archive_damaged",
    `${name} is damaged: ${what}`,
    "take another copy of it, or export again: the old install is as it was",
  );
}

function otherKind(name: string, byPassphrase: boolean): KekError {
  return byPassphrase
    ? new KekError(
        "archive_unreadable",
        `${name} is sealed by a passphrase`,
        "give --passphrase-file=FILE, or type it on a terminal",
      )
    : new KekError(
        "archive_unreadable",
        `${name} is sealed to age recipients, not by a passphrase`,
        "give --identity-file=FILE with the identity of one of them",
      );
}

function notForThisKey(name: string, byPassphrase: boolean): KekError {
  return new KekError(
    "archive_unreadable",
    byPassphrase
      ? `${name} does not open with this passphrase`
      : `${name} is for other recipients than this identity's`,
    byPassphrase
      ? "give the one that it was exported with"
      : "give the identity of a recipient that it was exported to",
  );
}
