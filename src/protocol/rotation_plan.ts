import type { RotationDoc, VersionDoc } from "./documents.ts";
import { CANCEL_COMMAND, nextStepsText } from "./next_steps.ts";
import { isOpen } from "./phases.ts";
import type { Problem } from "./problem.ts";
import { repairableVersions } from "./stale_envelopes.ts";
import type { VersionCount } from "./version_count.ts";

/** What `kek rotate --to-version=N` means in a given state: pure. */

export type Plan =
  | { kind: "start"; from: number; to: number; isReverse: boolean }
  /** The reverse rotation from an unfinished rotation, which it replaces. */
  | { kind: "reverse"; from: number; to: number; replaces: RotationDoc }
  /** Repairs stale envelopes from a version that was left to the active one: nobody's write version changes. */
  | { kind: "repair"; from: number; to: number }
  | { kind: "resume"; from: number; to: number; rotation: RotationDoc }
  | { kind: "refuse"; problem: Problem };

/** How an operator gives a process the key of a version: the words differ by provider. */
export interface KeyInstructions {
  /** @param known whether MongoDB knows the version already: then the same bytes are needed. */
  howToGive(version: number, known: boolean): string;
}

export interface RotationRequestVersions {
  to: number;
  /** `--from-version`, when given. */
  from: number | undefined;
  /** `--remove-old`. */
  removeOld?: boolean;
}

/**
 * @param keys says how a version that nobody knows is made known.
 * Protocol: "The life of one rotation". Model: acquire.
 */
export function planRotation({
  versions,
  rotation,
  wanted,
  keys,
  versionCounts = [],
}: {
  versions: VersionDoc[];
  rotation: RotationDoc | undefined;
  wanted: RotationRequestVersions;
  keys: KeyInstructions;
  versionCounts?: VersionCount[] | undefined;
}): Plan {
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
    const staleVersions = repairableVersions(versionCounts, { versions, rotation });
    const stale = staleVersions.find(({ version }) => wanted.from === undefined || wanted.from === version);
    if (stale !== undefined) return { kind: "repair", from: stale.version, to: active };
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
  return { kind: "start", from: active, to: wanted.to, isReverse: target.state === "retired" };
}

// ---------------------------------------------------------------------------------------------------------------------

function planWithOpen(open: RotationDoc, wanted: RotationRequestVersions): Plan {
  const { from, to } = open;
  if (wanted.to === to && (wanted.from === undefined || wanted.from === from))
    return { kind: "resume", from, to, rotation: open };
  if (wanted.to !== from || (wanted.from !== undefined && wanted.from !== to)) {
    return refuse(
      "rotation",
      `a rotation ${from} → ${to} is open (phase ${open.phase}, ${open.state})`,
      nextStepsText(open),
    );
  }
  if (open.phase === 1) {
    return refuse(
      "rotation",
      `the rotation ${from} → ${to} is in phase 1: no record has changed yet`,
      `cancel it: ${CANCEL_COMMAND}`,
    );
  }
  if (open.repairs === true) {
    return refuse(
      "rotation",
      `the rotation ${from} → ${to} only repairs stale envelopes of version ${from}: there is no reverse rotation from it`,
      nextStepsText(open),
    );
  }
  if (open.phase === 3) {
    return refuse(
      "rotation",
      `the rotation ${from} → ${to} is in phase 3: every record is at version ${to}`,
      nextStepsText(open),
    );
  }
  if (wanted.from === undefined) {
    return refuse("rotation", `a rotation ${from} → ${to} is open (phase 2, ${open.state})`, nextStepsText(open));
  }
  return { kind: "reverse", from: to, to: from, replaces: open };
}

function refuse(code: Problem["code"], message: string, hint: string): Plan {
  return { kind: "refuse", problem: { code, message, hint } };
}
