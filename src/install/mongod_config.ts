import { LAYOUT } from "./layout.ts";

/** mongod's own configuration file: loopback only, a replica set of one member, nobody enters without a password. Pure. */

export const REPLICA_SET = "certautopilot";
export const DEFAULT_MONGO_PORT = 27_017;

export function mongodConfig(port: number): string {
  return `# Laid down by "certautopilot install".
storage:
  dbPath: ${LAYOUT.mongodData}
net:
  bindIp: 127.0.0.1
  port: ${port}
  unixDomainSocket:
    enabled: false
replication:
  replSetName: ${REPLICA_SET}
security:
  authorization: enabled
  keyFile: ${LAYOUT.mongodKeyFile}
`;
}

/** The port in mongod's configuration; undefined where it cannot be read. */
export function portOf(config: string): number | undefined {
  const port = /^\s+port:\s*(\d+)\s*(#.*)?$/m.exec(config)?.[1];
  return port === undefined ? undefined : Number(port);
}

export function localUri(port: number, user: string, password: string): string {
  return `mongodb://${user}:${password}@127.0.0.1:${port}/?replicaSet=${REPLICA_SET}&authSource=admin`;
}
