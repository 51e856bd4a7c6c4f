import type { ProviderName } from "../config/config.ts";

/** What the operator asked for. A flag that was not given leaves what is installed, or takes the default. */
export interface InstallRequest {
  /** The directory that stands for `/`; empty for this host itself. */
  root: string;
  /** `laid` below another root; `none` on a host without systemd. */
  units: "none" | "laid" | "started";
  mongo: "local" | "external" | undefined;
  uri: string | undefined;
  databaseName: string | undefined;
  /** A mongod to use, and the port of a local MongoDB. */
  mongod: string | undefined;
  mongoPort: number | undefined;
  provider: ProviderName | undefined;
  token: TokenRequest;
  /** From another host's secrets file. */
  carried: Record<string, string> | undefined;
  listen: string | undefined;
  instanceName: string | undefined;
  /** The compiled program, as it runs now, and its release. */
  binary: string;
  version: string;
  allowDowngrade: boolean;
}

export interface TokenRequest {
  modulePath: string | undefined;
  label: string | undefined;
  pin: string | undefined;
  /** A directory that the module writes to. */
  stateDirectory: string | undefined;
}
