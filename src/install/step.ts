import type { ProviderName } from "../config/config.ts";
import type { LocalDatabase } from "../store/local_users.ts";
import type { Ids } from "./current_state.ts";

/** What is to be done to a host, as data: made by `plan.ts`, shown to the operator, done by `apply.ts`. */

/** `service` is the system user; `readable` is root's, and the service's group may read it. */
export type Owner = "root" | "service" | "readable";

/** @returns undefined while there is no such user: the file then belongs to whoever runs this. */
export function idsOf(owner: Owner, user: Ids | undefined): Ids | undefined {
  if (owner === "root") return { uid: 0, gid: 0 };
  return user && (owner === "service" ? user : { uid: 0, gid: user.gid });
}

export type Action =
  | { do: "remove_leftover"; path: string }
  | { do: "packages"; names: string[] }
  | { do: "user" }
  | { do: "directory"; path: string; mode: number; owner: Owner }
  /** `keeps`: once a database knows the keys, this stays whatever fails later. */
  | { do: "file"; path: string; mode: number; owner: Owner; content: string; keeps: boolean }
  | { do: "binary"; path: string; from: string }
  | { do: "local_database"; database: LocalDatabase; mongod: string }
  | { do: "first_key"; provider: ProviderName }
  | { do: "reload" }
  | { do: "enable"; unit: string }
  | { do: "start"; unit: string; restart: boolean }
  | { do: "listening"; unit: string; address: string }
  | { do: "ready"; unit: string; url: string };

export type Step = Action & {
  /** For people: what is made, its owner and mode. Never a secret. */
  title: string;
  /** False when the host has it already: nothing is done. */
  change: boolean;
};

export const changesOf = (steps: Step[]) => steps.filter(({ change }) => change);
