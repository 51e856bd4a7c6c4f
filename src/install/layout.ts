/** Where everything is on a host. Paths are the host's own; whoever writes puts `--root` before them. */

export const USER = "certautopilot";

export const LAYOUT = {
  binary: "/usr/local/bin/certautopilot",
  etc: "/etc/certautopilot",
  config: "/etc/certautopilot/config.yaml",
  secrets: "/etc/certautopilot/secrets.env",
  apiToken: "/etc/certautopilot/api.token",
  pin: "/etc/certautopilot/pin",
  mongodConfig: "/etc/certautopilot/mongod.conf",
  mongodKeyFile: "/etc/certautopilot/mongod.key",
  /** The administrator of a local MongoDB, for people; the service never reads it. */
  mongodAdmin: "/etc/certautopilot/mongod-admin.env",
  state: "/var/lib/certautopilot",
  mongodData: "/var/lib/certautopilot/mongodb",
  run: "/run/certautopilot",
  serviceUnit: "/etc/systemd/system/certautopilot.service",
  mongodUnit: "/etc/systemd/system/certautopilot-mongod.service",
} as const;

export const SERVICE = "certautopilot.service";
export const MONGOD = "certautopilot-mongod.service";
/** The oldest major version of MongoDB that serves. */
export const OLDEST_MONGOD = 6;
/** Where the distribution's packages put it. */
export const MONGOD_OF_PACKAGES = "/usr/bin/mongod";

export const DEFAULT_DATABASE = "certautopilot";

/** Where `update` puts a program that is not checked yet. */
export const STAGED_UPDATE = "/usr/local/bin/.certautopilot.staged";

/** What makes a unit start with the host. */
export function wantsLink(unit: string): string {
  return `/etc/systemd/system/multi-user.target.wants/${unit}`;
}

/** Files are placed under a name of their own first, and what they replace is kept until all is well (`place.ts`). */
export function besideNames(path: string): { fresh: string; old: string } {
  const slash = path.lastIndexOf("/");
  const [directory, name] = [path.slice(0, slash), path.slice(slash + 1)];
  return { fresh: `${directory}/.${name}.new`, old: `${directory}/.${name}.old` };
}
