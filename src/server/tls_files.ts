import { readFileSync } from "node:fs";
import type { ServerConfig } from "../config/config.ts";
import { readPrivateFile } from "../config/secrets_file.ts";
import { KekError, messageOf } from "../errors/errors.ts";

/**
 * The certificate and its key as PEM text; the key's file must be of mode 0600.
 * @throws KekError `config_invalid`, `secret_unreadable`, `secrets_file_exposed`, naming the file.
 */
export function readTls({ certFile, keyFile }: NonNullable<ServerConfig["tls"]>): { cert: string; key: string } {
  const key = readPrivateFile(keyFile, "the TLS key file");
  try {
    return { cert: readFileSync(certFile, "utf8"), key };
  } catch (thrown) {
    throw new KekError(
      "config_invalid",
      `the TLS certificate file ${certFile} cannot be read (${(thrown as NodeJS.ErrnoException).code ?? messageOf(thrown)})`,
      "set CERTAUTOPILOT_SERVER_TLS_CERT_FILE to a certificate in PEM, with its chain",
    );
  }
}
