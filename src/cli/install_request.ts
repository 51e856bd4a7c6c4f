import { existsSync } from "node:fs";
import { resolve } from "node:path";
import type { ProviderName } from "../config/config.ts";
import { checkUri } from "../config/database_uri.ts";
import { readEnvironment } from "../config/environment.ts";
import { compiledBinary } from "../config/runtime.ts";
import { parseSecrets, readPrivateFile } from "../config/secrets_file.ts";
import { VERSION } from "../config/version.ts";
import { KekError } from "../errors/errors.ts";
import { LAYOUT } from "../install/layout.ts";
import type { InstallRequest } from "../install/request.ts";
import { carriedFrom } from "../install/secrets.ts";
import { systemdRuns } from "../install/systemd.ts";
import { wholeNumber } from "./arguments.ts";
import type { Output } from "./output.ts";

/** From the flags of `install` to what is asked for: each value checked, each secret read from where it is. */

export const INSTALL_FLAGS = {
  mongo: { type: "string", description: "local: set a MongoDB up on this host; external: use one", valueHint: "WHERE" },
  "mongo-uri-file": {
    type: "string",
    description: "File of mode 0600 with the external MongoDB's URI",
    valueHint: "FILE",
  },
  "mongo-uri": { type: "string", description: "The same inline, for all to see: prefer the file", valueHint: "URI" },
  "mongo-database": {
    type: "string",
    description: "The install's database (default certautopilot)",
    valueHint: "NAME",
  },
  mongod: { type: "string", description: "The mongod of a local MongoDB (default: PATH, packages)", valueHint: "PATH" },
  "mongo-port": { type: "string", description: "The port of a local MongoDB (default 27017)", valueHint: "PORT" },
  "kek-provider": { type: "string", description: "env or pkcs11 (permanent) (default env)", valueHint: "NAME" },
  "pkcs11-module": { type: "string", description: "The vendor's PKCS#11 library", valueHint: "PATH" },
  "pkcs11-token-label": { type: "string", description: "The token's label", valueHint: "LABEL" },
  "pkcs11-pin-file": { type: "string", description: "File of mode 0600 with the token's PIN", valueHint: "FILE" },
  "pkcs11-pin": { type: "string", description: "The same inline, for all to see: prefer the file", valueHint: "PIN" },
  "pkcs11-state": {
    type: "string",
    description: "A directory that the module writes to (SoftHSM's tokens)",
    valueHint: "DIR",
  },
  "secrets-from": { type: "string", description: "secrets.env of another host of this fleet", valueHint: "FILE" },
  listen: { type: "string", description: "Where the service listens (default 127.0.0.1:8181)", valueHint: "HOST:PORT" },
  "instance-name": {
    type: "string",
    description: "This process's name in the fleet (default: the host's)",
    valueHint: "NAME",
  },
  "allow-downgrade": { type: "boolean", description: "Put an older release in place of a newer one" },
  root: { type: "string", description: "Lay it down below a directory; start nothing", valueHint: "DIR" },
  "no-service": { type: "boolean", description: "No systemd here: start nothing, say how" },
} as const;

export type InstallFlags = { [K in keyof typeof INSTALL_FLAGS]?: string | boolean | undefined };

/**
 * @param argv where `--no-service` is looked for: citty takes it for the contrary of a flag called `service`.
 * @throws KekError `usage`, `secret_unreadable`, `secrets_file_exposed`.
 */
export async function installRequest(flags: InstallFlags, argv: string[], output: Output): Promise<InstallRequest> {
  const text = (name: keyof typeof INSTALL_FLAGS) => flags[name] as string | undefined;
  const binary = compiledBinary();
  if (binary === undefined) {
    throw new KekError(
      "usage",
      "install lays the compiled program down, and this one runs from its sources",
      "run ./scripts/build, then: sudo dist/certautopilot install …",
    );
  }
  const root = rootOf(text("root"));
  const mongo = oneOf("mongo", text("mongo"), ["local", "external"] as const);
  const provider = oneOf("kek-provider", text("kek-provider"), ["env", "pkcs11"] as const);
  return {
    root,
    units: unitsOf(root, !argv.includes("--no-service")),
    mongo,
    uri: uriOf(text("mongo-uri"), text("mongo-uri-file"), mongo, output),
    databaseName: text("mongo-database"),
    mongod: pathOf("mongod", text("mongod"), root),
    mongoPort: wholeNumber("mongo-port", text("mongo-port"), 1, 65_535),
    provider,
    token: {
      modulePath: pathOf("pkcs11-module", text("pkcs11-module"), root),
      label: text("pkcs11-token-label"),
      pin: await pinOf(flags, provider, root, output),
      stateDirectory: pathOf("pkcs11-state", text("pkcs11-state"), root),
    },
    carried: carriedOf(text("secrets-from")),
    listen: listenOf(text("listen")),
    instanceName: text("instance-name"),
    binary,
    version: VERSION,
    allowDowngrade: flags["allow-downgrade"] === true,
  };
}

/** The directory that stands for `/`; empty for `/` itself. */
export function rootOf(root: string | undefined): string {
  return root === undefined ? "" : resolve(root).replace(/^\/$/, "");
}

// ---------------------------------------------------------------------------------------------------------------------

function unitsOf(root: string, service: boolean): InstallRequest["units"] {
  if (!service) return "none";
  if (root !== "") return "laid";
  if (systemdRuns()) return "started";
  throw new KekError(
    "usage",
    "systemd does not run on this host",
    "add --no-service: everything is laid down, and the last lines say how to start it",
  );
}

function oneOf<T extends string>(flag: string, value: string | undefined, known: readonly T[]): T | undefined {
  const found = known.find((each) => each === value);
  if (value === undefined || found !== undefined) return found;
  throw new KekError(
    "usage",
    `--${flag} is neither ${known.join(" nor ")}`,
    `give --${flag}=${known[0]} or --${flag}=${known[1]}`,
  );
}

/** Paths end up in units, where a blank or a percent sign would mean something else. */
function pathOf(flag: string, path: string | undefined, root: string): string | undefined {
  if (path === undefined) return undefined;
  if (!/^\/[\w./@+:,=-]+$/.test(path))
    throw new KekError(
      "usage",
      `--${flag} is not an absolute path of plain characters`,
      "letters, digits and . / _ @ + : , = - are",
    );
  if (root === "" && !existsSync(path)) throw new KekError("usage", `--${flag}=${path} is not there`, "check the path");
  return path;
}

/** The one line of a private file. Blanks around a URI are none of it; in a PIN every character counts. */
function listenOf(address: string | undefined): string | undefined {
  if (address === undefined || /^([\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}$/.test(address)) return address;
  throw new KekError(
    "usage",
    "--listen is not of the form HOST:PORT",
    "give an address of this host and a port, as in --listen=127.0.0.1:8181 or --listen=[::1]:8181",
  );
}

function secretLine(path: string, what: "URI file" | "PIN file"): string {
  const content = readPrivateFile(path, what, "file_or_pipe");
  const line = what === "URI file" ? content.trim() : content.replace(/\r?\n$/, "");
  if (line !== "" && !line.includes("\n")) return line;
  throw new KekError(
    "secret_unreadable",
    `${what} ${path} does not hold one line`,
    "write the value, and nothing else, into it",
  );
}

function inline(flag: string, output: Output): void {
  output.log.warn(
    `--${flag} on the command line can be read by every user of this host while it runs, and stays in the shell's history: prefer --${flag}-file=FILE of mode 0600`,
  );
}

function uriOf(
  given: string | undefined,
  file: string | undefined,
  mongo: InstallRequest["mongo"],
  output: Output,
): string | undefined {
  if (given !== undefined && file !== undefined)
    throw new KekError("usage", "--mongo-uri and --mongo-uri-file are given both", "keep the file");
  if (given !== undefined) inline("mongo-uri", output);
  const fromEnvironment = mongo === "external" ? readEnvironment()["CERTAUTOPILOT_DATABASE_URI"] : undefined;
  const uri = file === undefined ? (given ?? fromEnvironment) : secretLine(file, "URI file");
  if (uri !== undefined) checkUri(uri);
  return uri;
}

/** Flag, file, environment, terminal, in this order. One that is installed already is not asked for. */
async function pinOf(
  flags: InstallFlags,
  provider: ProviderName | undefined,
  root: string,
  output: Output,
): Promise<string | undefined> {
  const { "pkcs11-pin": given, "pkcs11-pin-file": file } = flags as Record<string, string | undefined>;
  if (given !== undefined && file !== undefined)
    throw new KekError("usage", "--pkcs11-pin and --pkcs11-pin-file are given both", "keep the file");
  if (given !== undefined) inline("pkcs11-pin", output);
  if (file !== undefined) return secretLine(file, "PIN file");
  if (given !== undefined) return given;
  if (!ASKS_FOR_PIN[provider ?? "env"]) return undefined;
  const fromEnvironment = readEnvironment()["CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN"];
  if (fromEnvironment !== undefined || existsSync(`${root}${LAYOUT.pin}`)) return fromEnvironment;
  return await output.askSecret(`PIN of token "${flags["pkcs11-token-label"] ?? ""}": `);
}

const ASKS_FOR_PIN: Record<ProviderName, boolean> = { env: false, pkcs11: true };

function carriedOf(path: string | undefined): Record<string, string> | undefined {
  if (path === undefined) return undefined;
  return carriedFrom(parseSecrets(readPrivateFile(path, "secrets file", "file_or_pipe"), path));
}
