import { randomBytes } from "node:crypto";

/** Secrets that a fresh install begins with. They are made before the plan, so that the plan is pure; what is not used is dropped. */
export interface GeneratedSecrets {
  /** 32 bytes each, as 64 hex digits. */
  kek: string;
  auditSecret: string;
  apiToken: string;
  mongodPassword: string;
  mongodAdminPassword: string;
  /** What members of the replica set know each other by: base64, as MongoDB wants it. */
  mongodKeyFile: string;
}

export function generateSecrets(): GeneratedSecrets {
  const hex = () => randomBytes(32).toString("hex");
  return {
    kek: hex(),
    auditSecret: hex(),
    apiToken: hex(),
    mongodPassword: hex(),
    mongodAdminPassword: hex(),
    mongodKeyFile: randomBytes(756).toString("base64"),
  };
}
