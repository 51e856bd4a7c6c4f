import type { CurrentState } from "./current_state.ts";
import { besideNames, LAYOUT, STAGED_UPDATE, USER } from "./layout.ts";
import { type Action, idsOf, type Owner, type Step } from "./step.ts";

export interface FileOptions {
  title: string;
  /** What is there stays, whatever it holds. */
  asFound?: boolean;
}

/** Steps as they are collected: each is compared with what is there. */
export class StepCollector {
  readonly steps: Step[] = [];
  readonly #found: CurrentState;

  constructor(found: CurrentState) {
    this.#found = found;
  }

  add(action: Action, title: string, change: boolean): void {
    this.steps.push({ ...action, title, change });
  }

  /** Whether this plan changes a file at one of these paths, or a run that was killed did so and came no further. */
  changed(paths: string[]): boolean {
    return (
      paths.some((path) => this.#found.entries.has(besideNames(path).old)) ||
      this.steps.some((step) => step.change && "path" in step && paths.includes(step.path))
    );
  }

  /** The last step: until then they tell that what was changed has not been taken up by the service. */
  leftovers(): void {
    const places = Object.values(LAYOUT).flatMap((place) => Object.values(besideNames(place)));
    for (const path of [...places, STAGED_UPDATE]) {
      if (this.#found.entries.has(path))
        this.add({ do: "remove_leftover", path }, `removed: ${path}, which an interrupted run left`, true);
    }
  }

  user(): void {
    const { user, mayMakeUser } = this.#found;
    const title = `system user and group ${USER}`;
    if (user !== undefined || mayMakeUser) this.add({ do: "user" }, title, user === undefined);
    else
      this.add(
        { do: "user" },
        `${title}: not here, files belong to whoever runs this until install is run on the host`,
        false,
      );
  }

  directory(path: string, mode: number, owner: Owner): void {
    this.add(
      { do: "directory", path, mode, owner },
      `directory ${path}${shown(mode, owner)}`,
      !this.#is(path, "directory", mode, owner),
    );
  }

  file(path: string, mode: number, owner: Owner, content: string, { title, asFound = false }: FileOptions): void {
    const there = this.#found.entries.get(path)?.content;
    const wanted = asFound && there !== undefined ? there : content;
    // What a database knows of must stay, but a configuration that the service did not take is put back.
    const keeps = path.startsWith(`${LAYOUT.etc}/`) && (path !== LAYOUT.config || there === undefined);
    const change = there !== wanted || !this.#is(path, "file", mode, owner);
    this.add({ do: "file", path, mode, owner, content: wanted, keeps }, `${title}${shown(mode, owner)}`, change);
  }

  /** @param version of the program that runs now, and is to be the host's. */
  binary(from: string, version: string): void {
    const { binaryIsThis, installedVersion } = this.#found;
    const change = !binaryIsThis || !this.#is(LAYOUT.binary, "file", 0o755, "root");
    const versions = installedVersion === undefined ? version : `${installedVersion} → ${version}`;
    const title = `program ${change ? versions : version} ${LAYOUT.binary}${shown(0o755, "root")}`;
    this.add({ do: "binary", path: LAYOUT.binary, from }, title, change);
  }

  #is(path: string, kind: "file" | "directory", mode: number, owner: Owner): boolean {
    const entry = this.#found.entries.get(path);
    if (entry === undefined || entry.kind !== kind || entry.mode !== mode) return false;
    if (!this.#found.privileged) return true;
    const ids = idsOf(owner, this.#found.user);
    return ids === undefined || (entry.uid === ids.uid && entry.gid === ids.gid);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

const OWNER_SHOWN: Record<Owner, string> = { root: "root", service: USER, readable: `root:${USER}` };

function shown(mode: number, owner: Owner): string {
  return ` (0${mode.toString(8)} ${OWNER_SHOWN[owner]})`;
}
