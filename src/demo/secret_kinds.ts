import { generateKeyPairSync, randomBytes } from "node:crypto";
import type { FieldName } from "../config/config.ts";

/** The secrets that a certificate manager keeps, made up afresh: seven fields of six collections. */

export interface Kind extends FieldName {
  /** Of 100 records, how many are of this kind. */
  share: number;
  make(): string;
}

export const KINDS: Kind[] = [
  { collection: "certificate_private_keys", path: "encrypted_key", share: 40, make: pemPrivateKey },
  { collection: "acme_accounts", path: "encrypted_private_key", share: 10, make: pemPrivateKey },
  { collection: "dns_credentials", path: "encrypted_api_key", share: 15, make: apiToken },
  { collection: "module_credentials", path: "encrypted_value", share: 15, make: kubeconfig },
  { collection: "notification_channels", path: "encrypted_config", share: 10, make: smtpConfig },
  { collection: "users", path: "totp_seed", share: 5, make: totpSeed },
  { collection: "users", path: "recovery_codes", share: 5, make: recoveryCodes },
];

// ---------------------------------------------------------------------------------------------------------------------

function pemPrivateKey(): string {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return privateKey.export({ type: "pkcs8", format: "pem" }).toString();
}

function apiToken(): string {
  return `cf_${randomBytes(30).toString("base64url")}`;
}

function kubeconfig(): string {
  const cluster = `cluster-${randomBytes(3).toString("hex")}`;
  return [
    "apiVersion: v1",
    "kind: Config",
    "clusters:",
    `- name: ${cluster}`,
    `  cluster: { server: "https://${cluster}.internal:6443", certificate-authority-data: ${randomBytes(600).toString("base64")} }`,
    "users:",
    "- name: deployer",
    `  user: { token: ${randomBytes(48).toString("base64url")} }`,
    "contexts:",
    `- { name: default, context: { cluster: ${cluster}, user: deployer } }`,
    "current-context: default",
    "",
  ].join("\n");
}

function smtpConfig(): string {
  return JSON.stringify({
    host: "smtp.example.org",
    port: 587,
    user: "notify",
    password: randomBytes(18).toString("base64"),
  });
}

function totpSeed(): string {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  return [...randomBytes(32)].map((byte) => alphabet[byte % 32]).join("");
}

function recoveryCodes(): string {
  return Array.from({ length: 10 }, () => randomBytes(5).toString("hex")).join("\n");
}
