import * as v from "valibot";

/** The shape of config.yaml, which is the shape of the `CERTAUTOPILOT_…` variables too. */

const MAX_INT32 = 2_147_483_647;
/** Each session is a thread. */
export const MAX_SESSIONS = 256;

const number = (min: number, max: number) =>
  v.pipe(
    v.union([v.number(), v.pipe(v.string(), v.regex(/^\d+$/), v.transform(Number))], "is not a whole number"),
    v.integer("is not a whole number"),
    v.minValue(min, `must be at least ${min}`),
    v.maxValue(max, `must be at most ${max}`),
  );

const text = v.pipe(v.string("is not text"), v.nonEmpty("is empty"));
const absolutePath = v.pipe(text, v.startsWith("/", "is not an absolute path"));
const version = number(1, MAX_INT32);
/** YAML reads a PIN of digits as a number, which would lose its leading zeros. */
const pin = v.pipe(v.string("must be text: put the PIN in quotes"), v.nonEmpty("is empty"));
/** It keys the audit chain: a word that can be guessed would let the chain be forged. */
const auditSecret = v.pipe(
  text,
  v.check(
    (secret) => Buffer.byteLength(secret) >= 16,
    "must be at least 16 bytes: make one with `openssl rand -hex 32`",
  ),
);
const flag = v.union(
  [
    v.boolean(),
    v.pipe(
      v.picklist(["true", "false"]),
      v.transform((word) => word === "true"),
    ),
  ],
  "is neither true nor false",
);
/** `365d`, or 365. */
const days = v.pipe(
  v.union([v.number(), v.string()], "is not a number of days"),
  v.transform((value) => Number(String(value).replace(/d$/, ""))),
  number(1, 36_500),
);
const milliseconds = number(1, 86_400_000);

/** `collection:path`. A collection's name may hold dots; a path may not hold a colon. */
const field = v.pipe(
  text,
  v.regex(/^[^:$\0]+:[^:$\0.][^:$\0]*$/, "is not of the form collection:path"),
  v.transform((name) => {
    const colon = name.indexOf(":");
    return { collection: name.slice(0, colon), path: name.slice(colon + 1) };
  }),
);

const listen = v.pipe(
  text,
  v.regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/, "is not of the form host:port"),
  v.transform((address) => {
    const colon = address.lastIndexOf(":");
    return { host: address.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(address.slice(colon + 1)) };
  }),
  v.check((address) => address.port <= 65_535, "has a port above 65535"),
);

/** The ports are those of RFC 5426, RFC 6587 (IANA: syslog-conn) and RFC 5425. */
const SYSLOG_PORT = { udp: 514, tcp: 601, tls: 6514 } as const;
const syslog = v.pipe(
  text,
  v.regex(
    /^(udp|tcp|tls):\/\/(\[[0-9a-fA-F:]+\]|[^:\s/?#@[\]]+)(:\d{1,5})?$/,
    "must be udp://host:port, tcp://host:port or tls://host:port",
  ),
  v.transform((url) => {
    const [, scheme = "", name = "", port] = /^(\w+):\/\/(\[.*\]|[^:]+)(?::(\d+))?$/.exec(url) ?? [];
    const transport = scheme as keyof typeof SYSLOG_PORT;
    const host = name.replace(/^\[|\]$/g, "");
    return { transport, host, port: port === undefined ? SYSLOG_PORT[transport] : Number(port) };
  }),
  v.check(({ port }) => port >= 1 && port <= 65_535, "must have a port from 1 to 65535"),
);

export const settingsSchema = v.strictObject({
  database: v.optional(v.strictObject({ uri: v.optional(text), name: v.optional(text) }), {}),
  encryption: v.optional(
    v.strictObject({
      provider: v.optional(v.picklist(["env", "pkcs11"], 'is neither "env" nor "pkcs11"'), "env"),
      current_version: v.optional(version),
      rotation_period: v.optional(days, 365),
      env: v.optional(v.record(v.string(), text), {}),
      pkcs11: v.optional(
        v.strictObject({
          module_path: v.optional(text),
          token_label: v.optional(text),
          pin: v.optional(pin),
          pin_file: v.optional(text),
          sessions: v.optional(number(1, MAX_SESSIONS)),
          login_limit_ms: v.optional(number(1000, 600_000), 60_000),
          call_limit_ms: v.optional(number(1000, 600_000), 10_000),
          use_gcm_iv_from_hsm: v.optional(flag, false),
          softhsm_backup_dir: v.optional(absolutePath),
        }),
        {},
      ),
    }),
    {},
  ),
  secrets_file: v.optional(text),
  instance_name: v.optional(text),
  server: v.optional(
    v.strictObject({
      listen: v.optional(listen, "127.0.0.1:8181"),
      tls_cert_file: v.optional(text),
      tls_key_file: v.optional(text),
      hosts: v.optional(v.array(text), []),
    }),
    {},
  ),
  api: v.optional(v.strictObject({ token_file: v.optional(text), socket: v.optional(text) }), {}),
  audit: v.optional(
    v.strictObject({
      secret: v.optional(auditSecret),
      file: v.optional(text),
      syslog: v.optional(syslog),
      syslog_ca_file: v.optional(text),
    }),
    {},
  ),
  fleet: v.optional(
    v.strictObject({
      beat_ms: v.optional(milliseconds, 5000),
      lease_ms: v.optional(milliseconds, 30_000),
      eviction_ms: v.optional(milliseconds, 60_000),
      drain_ms: v.optional(number(0, 86_400_000), 5000),
    }),
    {},
  ),
  fields: v.optional(v.array(field), []),
});

export type Settings = v.InferOutput<typeof settingsSchema>;

/** A KEK in text: 64 hex digits. The value never appears in a message. */
export const KEK_HEX = /^[0-9a-fA-F]{64}$/;

/** The version in a setting's name (`KEK_V2`, `kek_v2`), or undefined when the name is not of that form. */
export function kekVersionOf(name: string): number | undefined {
  const digits = /^kek_v([1-9]\d{0,9})$/i.exec(name)?.[1];
  const value = Number(digits);
  return digits !== undefined && value <= MAX_INT32 ? value : undefined;
}
