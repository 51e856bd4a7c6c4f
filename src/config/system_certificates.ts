import { existsSync, readFileSync } from "node:fs";
import { KekError, messageOf } from "../errors/errors.ts";
import { certificateFileAsked, extraCertificateFileAsked } from "./environment.ts";

/** Where distributions keep the trusted certificates: Debian and Alpine, Red Hat, SUSE, others. */
const STORES = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
];

/**
 * The certificates that this host trusts, as PEM: of the file that SSL_CERT_FILE names, else of the system's store. The
 * runtime has roots of its own and does not know a company's. Given as `ca` they replace those, so the file that
 * NODE_EXTRA_CA_CERTS names is added.
 * @returns undefined where the host has no store: then the runtime's own roots are used.
 * @throws KekError `config_invalid` for a file that was named and cannot be read.
 */
export function systemCertificates(): string | undefined {
  const asked = certificateFileAsked();
  const store = asked ?? STORES.find((path) => existsSync(path));
  if (store === undefined) return undefined;
  const extra = extraCertificateFileAsked();
  return [store, ...(extra === undefined ? [] : [extra])].map(read).join("\n");
}

// ---------------------------------------------------------------------------------------------------------------------

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (thrown) {
    throw new KekError(
      "config_invalid",
      `the trusted certificates in ${path} cannot be read (${(thrown as NodeJS.ErrnoException).code ?? messageOf(thrown)})`,
      "check the path: SSL_CERT_FILE and NODE_EXTRA_CA_CERTS name such a file; unset, the system's store is used",
    );
  }
}
