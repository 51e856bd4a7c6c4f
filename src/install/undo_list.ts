import { messageOf } from "../errors/errors.ts";

/** What has been done to the host, and how each of it is undone: newest first. Kept in memory; a killed run is finished by the next. */
export interface UndoStep {
  /** For the operator, should it have to stay: "directory /etc/certautopilot". */
  what: string;
  undo: () => Promise<void> | void;
  /** It holds keys, or what belongs to them: once a database knows the keys, it stays. */
  keeps?: boolean;
  /** What is no longer needed when all is well: the file that was replaced. */
  settle?: () => void;
}

export class UndoList {
  readonly #deeds: UndoStep[] = [];
  readonly #after: UndoStep[] = [];
  #keysKnown: string | undefined;

  did(deed: UndoStep): void {
    this.#deeds.push(deed);
  }

  /** Something to set going again once everything is as it was. */
  afterUndo(deed: UndoStep): void {
    this.#after.push(deed);
  }

  /** From now on a database that is not ours to delete, or a token, knows the keys. */
  keysAreKnown(where: string): void {
    this.#keysKnown = where;
  }

  /** Everything went well. */
  settle(): void {
    for (const { settle } of this.#deeds) settle?.();
  }

  /** @returns what could not, or must not, be undone, in words. */
  async undo(): Promise<string[]> {
    const left: string[] = [];
    for (const { what, undo, keeps, settle } of [...this.#deeds].reverse()) {
      if (keeps === true && this.#keysKnown !== undefined) {
        settle?.();
        left.push(`${what}: it belongs to the keys that ${this.#keysKnown} knows now`);
      } else await attempt(what, undo, left);
    }
    for (const { what, undo } of this.#after) await attempt(what, undo, left);
    return left;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function attempt(what: string, undo: UndoStep["undo"], left: string[]): Promise<void> {
  try {
    await undo();
  } catch (thrown) {
    left.push(`${what}: ${messageOf(thrown)}`);
  }
}
