/** The configuration as the rest of the program sees it: plain data, complete, valid. It can be handed to a worker. */

export type ProviderName = "env" | "pkcs11";

export interface FieldName {
  collection: string;
  path: string;
}

/** Times in milliseconds; section 7's rule `2 × beat < lease < eviction` holds for every value of this type. */
export interface FleetTimes {
  beatMs: number;
  leaseMs: number;
  evictionMs: number;
  drainMs: number;
}

export interface EncryptionConfig {
  provider: ProviderName;
  /** What the operator declares; intent only, the write version follows MongoDB. */
  currentVersion: number | undefined;
  env: {
    /** 64 hex digits a version, from the environment or config.yaml. The secrets file is read apart, whenever it changes. */
    keks: Record<number, KekHex>;
  };
  pkcs11?: Pkcs11Config;
}

export interface Pkcs11Config {
  modulePath?: string | undefined;
  tokenLabel?: string | undefined;
  pin?: string | undefined;
  pinFile?: string | undefined;
  /** Where SoftHSM's `token.object` is copied to before each login. */
  softHsmBackup?: string | undefined;
  /** How many sessions a process opens at most; undefined for what the token gives, within reason. */
  sessions?: number | undefined;
  /** How long C_Initialize, C_OpenSession and C_Login may take, and every other call. */
  startLimitMs?: number | undefined;
  callLimitMs?: number | undefined;
  /** `use_gcm_iv_from_hsm`: the token makes the IVs itself. */
  ownIvs?: boolean;
}

/** A KEK as text, with the name of the setting it came from: errors name the setting, never the value. */
export interface KekHex {
  setting: string;
  hex: string;
}

export interface ServerConfig {
  host: string;
  port: number;
  /** PEM files. */
  tls: { certFile: string; keyFile: string } | undefined;
  /** Names that browsers may know this server by, beside addresses and localhost. */
  hosts: string[];
}

export interface ApiConfig {
  /** Mode 0600, one line. */
  tokenFile: string;
  /** A Unix socket to answer on as well. */
  socket: string | undefined;
}

export interface AuditConfig {
  secret: string;
  /** JSON lines in this file; "-" for a standard stream. */
  file: string | undefined;
  syslog?: SyslogTarget | undefined;
}

/** A receiver of RFC 5424 messages. */
export interface SyslogTarget {
  transport: "udp" | "tcp" | "tls";
  host: string;
  port: number;
  /** PEM: who may have signed the receiver's certificate, in place of the public authorities. */
  caFile?: string | undefined;
}

export interface Config {
  database: { uri: string; name: string };
  encryption: EncryptionConfig;
  secretsFile: string | undefined;
  instanceName: string;
  /** How long a version may be active before policy asks for the next; nothing in the protocol hangs on it. */
  rotationPeriodMs: number;
  server: ServerConfig;
  /** The encrypt/decrypt API of `serve`; undefined until a token's file is named. */
  api: ApiConfig | undefined;
  audit: AuditConfig;
  fleet: FleetTimes;
  fields: FieldName[];
}
