import { addressOf } from "./address.ts";
import type { CurrentState } from "./current_state.ts";
import type { HostFacts, Place } from "./host_facts.ts";
import { LAYOUT } from "./layout.ts";
import type { Step } from "./step.ts";
import { hiddenByUnits, leftOut, OLDEST_SYSTEMD } from "./units.ts";

/** What a host has against an install: each with why it matters and what to do. Pure. */
export interface HostFinding {
  /** False: install continues, and says it. */
  blocks: boolean;
  /** What is so, and why it matters. */
  message: string;
  hint: string;
}

/** What the plan asks of the host. */
export interface Asked {
  steps: Step[];
  units: "none" | "laid" | "started";
  /** Whether an HSM's library is run, which is done as the service's user. */
  token: boolean;
  /** The program's size; and whether a MongoDB begins from nothing. */
  programBytes: number;
  /** Real paths that the units' processes read: what each is, and the path. */
  needs: { what: string; path: string; real: string }[];
  /** Where it is to listen, and the flag that says so; `isOurs` when a unit of ours has it now. */
  listens: { address: string; flag: string | undefined; what: string; isOurs: boolean }[];
}

export function checkHost(asked: Asked, facts: HostFacts, found: CurrentState): HostFinding[] {
  return [
    ...places(asked, facts),
    ...(asked.units === "none" ? [] : systemd(found)),
    ...user(found),
    ...setpriv(asked, facts),
    ...asked.needs.flatMap((need) => visible(need, asked.units !== "none", facts, found)),
    ...asked.listens.flatMap((listen) => ports(listen, facts)),
    ...packages(asked, facts),
  ];
}

// ---------------------------------------------------------------------------------------------------------------------

const stop = (message: string, hint: string): HostFinding => ({ blocks: true, message, hint });
const note = (message: string, hint: string): HostFinding => ({ blocks: false, message, hint });
const MIB = 1 << 20;
/** WiredTiger's journal and the first oplog of an empty data directory. */
const FIRST_DATABASE_BYTES = 512 * MIB;
const OTHER_BYTES = 4 * MIB;

/** Whether a step that changes something does so at a path or below it. */
function writes(steps: Step[], path: string): boolean {
  const isIn = (each: string) => each === path || each.startsWith(`${path}/`);
  return steps.some(
    (step) =>
      step.change && (("path" in step && isIn(step.path)) || (step.do === "local_database" && isIn(LAYOUT.mongodData))),
  );
}

const changes = (steps: Step[], kind: Step["do"]) => steps.some((step) => step.do === kind && step.change);

function places({ steps, programBytes }: Asked, facts: HostFacts): HostFinding[] {
  const findings: HostFinding[] = [];
  const wanted = new Map<string, { place: Place; bytes: number }>();
  for (const place of facts.places.filter((each) => writes(steps, each.path))) {
    if (place.readOnly)
      findings.push(
        stop(
          `${place.mount} is mounted read-only, and install writes ${place.path}`,
          `make it writable: mount -o remount,rw ${place.mount}; or build the image with --root=DIR`,
        ),
      );
    const bytes =
      place.path === LAYOUT.binary
        ? changes(steps, "binary")
          ? programBytes
          : 0
        : place.path === LAYOUT.state && changes(steps, "local_database")
          ? FIRST_DATABASE_BYTES
          : OTHER_BYTES;
    const before = wanted.get(place.mount);
    wanted.set(place.mount, { place, bytes: (before?.bytes ?? 0) + bytes });
  }
  for (const [mount, { place, bytes }] of wanted)
    if (place.freeBytes < bytes)
      findings.push(
        stop(
          `${mount} has ${Math.floor(place.freeBytes / MIB)} MiB free, and install needs ${Math.ceil(bytes / MIB)} MiB there`,
          `make room: df -h ${mount}`,
        ),
      );
  return findings;
}

function systemd({ systemd: { version, userNamespaces } }: CurrentState): HostFinding[] {
  const findings: HostFinding[] = [];
  if (version !== undefined && version < OLDEST_SYSTEMD)
    return [
      stop(
        `this host has systemd ${version}, and the units need ${OLDEST_SYSTEMD} or newer`,
        "add --no-service, and have your own supervisor start what the last lines say",
      ),
    ];
  const ignored = leftOut({ version, userNamespaces });
  if (ignored.length > 0)
    findings.push(
      note(
        `systemd ${version} has no ${ignored.join(", ")}: the units are without, and isolate the service less`,
        "update the host's systemd when you can, then run install again",
      ),
    );
  if (!userNamespaces)
    findings.push(
      note(
        "user namespaces are off on this host (user.max_user_namespaces=0): the units are without PrivateUsers=, which cannot start here",
        "nothing needs to be done; run install again if you turn them on",
      ),
    );
  return findings;
}

function user({ user: there, group, userIsOurs, installed }: CurrentState): HostFinding[] {
  if (there === undefined || userIsOurs || installed !== undefined) return [];
  return [
    note(
      `the user certautopilot is here already (uid ${there.uid}, group ${group}): the service runs as this user, and whoever can log in as it can read the keys`,
      "if it belongs to somebody else, rename it first (usermod --login), and run install again; uninstall leaves a user that it did not make",
    ),
  ];
}

function setpriv({ steps, token }: Asked, { changesUser }: HostFacts): HostFinding[] {
  const needed = changes(steps, "local_database") || (token && changes(steps, "first_key"));
  if (changesUser || !needed) return [];
  return [
    stop(
      "setpriv of util-linux is not installed, and install starts mongod and the HSM's library as the service's user with it (busybox's setpriv cannot change the user)",
      "install it: apk add setpriv, or apt-get install util-linux",
    ),
  ];
}

function visible(
  { what, path, real }: Asked["needs"][number],
  byUnits: boolean,
  facts: HostFacts,
  { group }: CurrentState,
): HostFinding[] {
  const shown = path === real ? path : `${path} (${real})`;
  const hidden = byUnits ? hiddenByUnits(real) : undefined;
  if (hidden !== undefined)
    return [
      stop(`${what} ${shown} ${hidden}`, `move it, for example to /usr/local/lib or /var/lib, and name it there`),
    ];
  const closed = facts.unreadable.get(path);
  if (closed === undefined) return [];
  return [
    stop(
      `${what} ${shown} cannot be read by the service's user: ${closed} is closed to it`,
      `open it for the group ${group}, or for all: ls -ld ${closed}`,
    ),
  ];
}

function ports({ address, flag, what, isOurs }: Asked["listens"][number], facts: HostFacts): HostFinding[] {
  if (isOurs) return [];
  const { port } = addressOf(address);
  if (port < facts.firstFreePort && port > 0)
    return [
      stop(
        `${what} cannot listen on ${address}: below port ${facts.firstFreePort} only root may`,
        `name another port${flag === undefined ? "" : ` with ${flag}`}, and put a proxy before it if it must be ${port}`,
      ),
    ];
  const why = facts.taken.get(address);
  if (why === undefined) return [];
  return [
    stop(
      `${what} cannot listen on ${address}: it is ${why}`,
      `see what listens: ss -ltnp; stop it${flag === undefined ? "" : `, or name another with ${flag}`}`,
    ),
  ];
}

function packages({ steps }: Asked, { packagesBusy }: HostFacts): HostFinding[] {
  if (packagesBusy === undefined || !changes(steps, "packages")) return [];
  return [note(`${packagesBusy} works with packages: install waits for it, five minutes at most`, "wait, or end it")];
}
