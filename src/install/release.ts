import { createHash } from "node:crypto";
import {
  closeSync,
  createReadStream,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { systemCertificates } from "../config/system_certificates.ts";
import { KekError, messageOf } from "../errors/errors.ts";

/** A release's files, at a URL or in a directory: `<base>/v<version>/<name>`. Nothing fetched is executed before its hash was compared. */

export const RELEASES = "https://github.com/CloudNativeWorks/certautopilot-archive/releases/download";

const MAX_SUMS_BYTES = 1 << 20;
const MAX_PROGRAM_BYTES = 512 << 20;
const MAX_REDIRECTS = 5;
/** Without a byte for so long a download is given up. */
const SILENCE_MS = 60_000;

export interface ReleaseFile {
  /** A URL, or the path of a directory. */
  base: string;
  version: string;
  name: string;
}

/** @throws KekError `usage` for a base that nobody can vouch for. */
export function checkBase(base: string): void {
  if (/^https:\/\/[^/]*@/.test(base))
    throw new KekError(
      "usage",
      "--base-url has a user name or a password in it",
      "it would show in the list of processes; copy the files here and name the directory",
    );
  if (base.startsWith("/") || cannotBeChangedOnItsWay(base)) return;
  throw new KekError(
    "usage",
    "--base-url is neither an https:// URL nor an absolute path of a directory",
    "over plain http whoever is in between could change program and checksum alike",
  );
}

/** The SHA-256 that the release's SHA256SUMS gives a file. */
export async function expectedDigest(file: ReleaseFile): Promise<string> {
  const sums = await readSmall({ ...file, name: "SHA256SUMS" });
  const line = sums.split("\n").find((each) => each.replace(/^[0-9a-f]{64} [ *]/, "") === file.name);
  const digest = /^([0-9a-f]{64}) [ *]/.exec(line ?? "")?.[1];
  if (digest !== undefined) return digest;
  throw new KekError(
    "refused",
    `SHA256SUMS of ${placeOf(file)} does not name ${file.name}`,
    "check --version and --base-url",
  );
}

/**
 * Brings a file to a new one of mode 0600.
 * @throws KekError `refused` when it is not what SHA256SUMS says, or too large; the caller removes what is there then.
 */
export async function fetchProgram(file: ReleaseFile, digest: string, to: string): Promise<void> {
  const descriptor = openSync(to, "wx", 0o600);
  try {
    const hash = createHash("sha256");
    let size = 0;
    for await (const chunk of chunksOf(file)) {
      size += chunk.byteLength;
      if (size > MAX_PROGRAM_BYTES)
        throw new KekError("refused", `${placeOf(file)} is larger than any release`, "check --base-url");
      hash.update(chunk);
      for (let written = 0; written < chunk.byteLength; ) written += writeSync(descriptor, chunk, written);
    }
    fsyncSync(descriptor);
    const found = hash.digest("hex");
    if (found === digest) return;
    throw new KekError(
      "refused",
      `${placeOf(file)} is not what its SHA256SUMS says: ${found}, expected ${digest}`,
      "the download was cut short or changed: try again, or another mirror; nothing was changed here",
    );
  } finally {
    closeSync(descriptor);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function placeOf({ base, version, name }: ReleaseFile): string {
  return base.startsWith("/") ? join(base, `v${version}`, name) : `${base.replace(/\/+$/, "")}/v${version}/${name}`;
}

async function readSmall(file: ReleaseFile): Promise<string> {
  const place = placeOf(file);
  if (place.startsWith("/")) {
    if (existsSync(place) && statSync(place).size <= MAX_SUMS_BYTES) return readFileSync(place, "utf8");
    throw noFile(place);
  }
  let text = "";
  for await (const chunk of chunksOf(file)) {
    text += Buffer.from(chunk).toString("utf8");
    if (text.length > MAX_SUMS_BYTES) throw notThere(place, "it is too large");
  }
  return text;
}

async function* chunksOf(file: ReleaseFile): AsyncGenerator<Uint8Array> {
  const place = placeOf(file);
  if (place.startsWith("/")) {
    if (!existsSync(place)) throw noFile(place);
    yield* createReadStream(place) as AsyncIterable<Uint8Array>;
    return;
  }
  const abort = new AbortController();
  let timer = setTimeout(() => abort.abort(), SILENCE_MS);
  try {
    const answer = await followed(place, abort.signal);
    if (!answer.ok || answer.body === null) throw notThere(place, `the server answers ${answer.status}`);
    for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(), SILENCE_MS);
      yield chunk;
    }
  } catch (thrown) {
    throw thrown instanceof KekError ? thrown : notThere(place, messageOf(thrown));
  } finally {
    clearTimeout(timer);
  }
}

function cannotBeChangedOnItsWay(url: string): boolean {
  return /^https:\/\/|^http:\/\/(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(\/|$)/.test(url);
}

/** Redirects are followed here: fetch would go from https to http. */
async function followed(place: string, signal: AbortSignal): Promise<Response> {
  let url = place;
  const ca = systemCertificates();
  const trust = ca === undefined ? {} : { tls: { ca } };
  for (let hops = 0; hops < MAX_REDIRECTS; hops += 1) {
    const answer = await fetch(url, { signal, redirect: "manual", ...trust });
    const next = answer.headers.get("location");
    if (answer.status < 300 || answer.status > 399 || next === null) return answer;
    url = new URL(next, url).href;
    if (!cannotBeChangedOnItsWay(url)) throw notThere(place, "the server redirects to an address that is not https");
  }
  throw notThere(place, `more than ${MAX_REDIRECTS} redirects`);
}

function noFile(place: string): KekError {
  return new KekError(
    "refused",
    `${place} cannot be fetched: no such file`,
    "check --version, and that the directory of --base-url has v<version>/ with the release's files in it",
  );
}

function notThere(place: string, why: string): KekError {
  return new KekError(
    "refused",
    `${place} cannot be fetched: ${why}`,
    "check --version, --base-url and the network (HTTPS_PROXY is used where it is set; https needs a certificate that the system's store, or the file in SSL_CERT_FILE, trusts); --base-url may also be a directory that has v<version>/ with the release's files in it",
  );
}
