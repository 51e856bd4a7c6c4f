import type { Problem } from "../fleet/readiness.ts";
import type { Provider } from "../providers/provider.ts";
import { movableStrays } from "../status/strays.ts";
import { CANCEL_COMMAND, waysOn } from "../status/ways_on.ts";
import type { CensusRow } from "../store/census.ts";
import type { RotationDoc, VersionDoc } from "../store/documents.ts";
import { isOpen } from "../store/state_rules.ts";

/** What `kek rotate --to-version=N` means in a given state: pure. */

export type Plan =
  | { kind: "start"; from: number; to: number; wayBack: boolean }
  /** The way back from an unfinished rotation, which it replaces. */
  | { kind: "reverse"; from: number; to: number; replaces: RotationDoc }
  /** Brings strays back from a version that was left to the active one: nobody's write version changes. */
  | { kind: "mend"; from: number; to: number }
  | { kind: "resume"; from: number; to: number; rotation: RotationDoc }
  | { kind: "refuse"; problem: Problem };

export interface Wanted {
  to: number;
  /** `--from-version`, when given. */
  from: number | undefined;
  /** `--remove-old`. */
  removeOld?: boolean;
}

/** @param keys says how a version that nobody knows is made known. */
export function planRotation(
  versions: VersionDoc[],
  rotation: RotationDoc | undefined,
  wanted: Wanted,
  keys: Pick<Provider, "howToGive">,
  census: CensusRow[] = [],
): Plan {
  if (rotation !== undefined && isOpen(rotation)) return planWithOpen(rotation, wanted);
  const active = versions.find((version) => version.state === "active")?._id;
  const target = versions.find((version) => version._id === wanted.to);
  if (active === undefined) {
    return refuse(
      "target",
      "no KEK version is active yet",
      "start the service: its first process activates the first version",
    );
  }
  if (wanted.to === active) {
    const strays = movableStrays(census, { versions, rotation });
    const stray = strays.find(({ version }) => wanted.from === undefined || wanted.from === version);
    if (stray !== undefined) return { kind: "mend", from: stray.version, to: active };
    return refuse(
      "target",
      `KEK version ${active} is already the active one`,
      wanted.removeOld === true && rotation?.to === active
        ? `the rotation is complete; for what --remove-old asks, run: certautopilot kek remove --version=${rotation.from}`
        : "nothing is left to do; `certautopilot kek status` shows it",
    );
  }
  if (wanted.from !== undefined && wanted.from !== active) {
    return refuse(
      "target",
      `--from-version=${wanted.from} is not the active version: that is ${active}`,
      `run: certautopilot kek rotate --to-version=${wanted.to} --from-version=${active}`,
    );
  }
  if (target === undefined) {
    return refuse(
      "target",
      `KEK version ${wanted.to} is not known: no process of the fleet holds it`,
      `${keys.howToGive(wanted.to, false)}; then run: certautopilot kek verify --target=${wanted.to}`,
    );
  }
  if (target.state === "destroyed") {
    return refuse(
      "target",
      `KEK version ${wanted.to} was destroyed`,
      "a number is never used again: rotate to a new version",
    );
  }
  return { kind: "start", from: active, to: wanted.to, wayBack: target.state === "retired" };
}

// ---------------------------------------------------------------------------------------------------------------------

function planWithOpen(open: RotationDoc, wanted: Wanted): Plan {
  const { from, to } = open;
  if (wanted.to === to && (wanted.from === undefined || wanted.from === from))
    return { kind: "resume", from, to, rotation: open };
  if (wanted.to !== from || (wanted.from !== undefined && wanted.from !== to)) {
    return refuse("rotation", `a rotation ${from} → ${to} is open (phase ${open.phase}, ${open.state})`, waysOn(open));
  }
  if (open.phase === 1) {
    return refuse(
      "rotation",
      `the rotation ${from} → ${to} is in phase 1: no record has changed yet`,
      `cancel it: ${CANCEL_COMMAND}`,
    );
  }
  if (open.mends === true) {
    return refuse(
      "rotation",
      `the rotation ${from} → ${to} only brings strays of version ${from} back: there is no way back from it`,
      waysOn(open),
    );
  }
  if (open.phase === 3) {
    return refuse(
      "rotation",
      `the rotation ${from} → ${to} is in phase 3: every record is at version ${to}`,
      waysOn(open),
    );
  }
  if (wanted.from === undefined) {
    return refuse("rotation", `a rotation ${from} → ${to} is open (phase 2, ${open.state})`, waysOn(open));
  }
  return { kind: "reverse", from: to, to: from, replaces: open };
}

function refuse(code: Problem["code"], message: string, hint: string): Plan {
  return { kind: "refuse", problem: { code, message, hint } };
}
