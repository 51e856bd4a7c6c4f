import type { ProviderName } from "../config/config.ts";
import type { VersionDoc } from "../protocol/documents.ts";
import type { Lock } from "../providers/registry.ts";

/** What is on the host before anything is done to it: the plan is made from it, and from what was asked. */

export interface Ids {
  uid: number;
  gid: number;
  /** Further groups of the user, which a unit's User= gives a process too. */
  groups?: number[];
}

export interface Entry {
  kind: "file" | "directory" | "other";
  mode: number;
  uid: number;
  gid: number;
  /** Of the text files that install lays down. */
  content: string | undefined;
}

export interface UnitState {
  enabled: boolean;
  active: boolean;
}

export interface Installed {
  provider: ProviderName;
  databaseName: string;
  listen: string;
  /** Whether it answers under TLS. */
  tls: boolean;
  modulePath: string | undefined;
  tokenLabel: string | undefined;
}

/** Of the host that the units are for. */
export interface Systemd {
  /** Undefined where there is none, or none that can be asked. */
  version: number | undefined;
  /** False where the kernel allows none, and PrivateUsers= makes a unit fail. */
  userNamespaces: boolean;
}

export interface CurrentState {
  user: Ids | undefined;
  /** The name of the user's primary group; where there is no user yet, of the one that it gets. */
  group: string;
  systemd: Systemd;
  /** Whether install made the user. */
  userIsOurs: boolean;
  /** Whether owners can be set at all, and a user be made here. */
  privileged: boolean;
  mayMakeUser: boolean;
  /** By path: what lies at each place of the layout. */
  entries: Map<string, Entry>;
  /** Of secrets.env; empty when there is none. */
  secrets: Record<string, string>;
  /** What config.yaml says; undefined when there is none. */
  installed: Installed | undefined;
  /** Whether the binary in place is this program, byte for byte. */
  binaryIsThis: boolean;
  /** The release of the binary in place; undefined when there is none, or below another root, where nothing is run. */
  installedVersion: string | undefined;
  /** Whether the data directory of a local MongoDB has files in it. */
  mongodHasData: boolean;
  units: { service: UnitState; mongod: UnitState };
  /** The mongod that a unit here starts, else one that was found; undefined when there is none. */
  mongod: string | undefined;
  /** Packages of MongoDB that the package manager has, for when there is no mongod. */
  mongodPackages: string[];
  /** Whether the package manager has lists of packages at all; a fresh image has none. */
  packageLists: boolean;
  /** The group that owns the directory named by `--pkcs11-state`. */
  tokenGroup: string | undefined;
  database: CurrentDatabase;
}

/** What could be seen of the database. `unseen`: it is not there yet, or its mongod is not running. */
export type CurrentDatabase =
  | { seen: false }
  | {
      seen: true;
      /** Whether the user of the URI may fence collections. */
      fence: boolean;
      lock: (Lock & { installId: string }) | undefined;
      versions: VersionDoc[];
    };
