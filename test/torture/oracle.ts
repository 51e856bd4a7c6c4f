import { readFileSync } from "node:fs";
import type { LedgerLine } from "./service.ts";

/** What services wrote down beside the database, and whether what is in the database now is what they were promised. */

export interface Opened {
  id: number;
  revision: number;
  version: number;
  digest?: string;
  error?: string;
}

export interface Counts {
  writes: number;
  reads: number;
  failures: Map<string, number>;
}

export class Ledger {
  /** `id/revision` → digests of what was to be written; two after a crash in between. */
  readonly #intents = new Map<string, Set<string>>();
  readonly #acknowledged = new Map<number, number>();
  readonly #findings: string[] = [];
  readonly #missingKeys: { id: number; version: number }[] = [];
  readonly counts: Counts = { writes: 0, reads: 0, failures: new Map() };

  static read(files: string[]): Ledger {
    const ledger = new Ledger();
    const lines = files.flatMap((file) => readFileSync(file, "utf8").split("\n").filter(Boolean).map(parsed));
    // Intents of all services first: one reads what another has written.
    for (const line of lines) if (line.do === "intent") ledger.#intend(line);
    for (const line of lines) ledger.#take(line);
    return ledger;
  }

  /**
   * @param opened every record, as a process with only the active version's key has opened it.
   * @param stale see `Judgement`.
   */
  findings(opened: Opened[], stale: ReadonlySet<string> = new Set()): string[] {
    const missing = this.#missingKeys.filter(({ id, version }) => !stale.has(`${id}/${version}`));
    const findings = [
      ...this.#findings,
      ...missing.map(({ id, version }) => `a read of record ${id} failed for want of KEK version ${version}`),
    ];
    const there = new Set(opened.map(({ id }) => id));
    for (const id of this.#acknowledged.keys()) if (!there.has(id)) findings.push(`record ${id} is gone`);
    for (const { id, revision, version, digest, error } of opened) {
      const name = `record ${id}, revision ${revision}, under KEK version ${version}`;
      const newest = this.#acknowledged.get(id) ?? 0;
      if (error !== undefined) findings.push(`${name} does not open: ${error}`);
      else if (revision < newest) findings.push(`${name}: revision ${newest} was acknowledged, and is lost`);
      else if (!this.#matches(id, revision, digest ?? "")) findings.push(`${name} holds something that nobody wrote`);
    }
    return [...new Set(findings)];
  }

  // -------------------------------------------------------------------------------------------------------------------

  #intend({ id, revision, digest }: LedgerLine & { do: "intent" }): void {
    const key = `${id}/${revision}`;
    this.#intents.set(key, (this.#intents.get(key) ?? new Set()).add(digest));
  }

  #take(line: LedgerLine): void {
    switch (line.do) {
      case "intent":
        return;
      case "acknowledged":
        this.counts.writes += 1;
        this.#acknowledged.set(line.id, Math.max(line.revision, this.#acknowledged.get(line.id) ?? 0));
        return;
      case "read":
        this.counts.reads += 1;
        if (!this.#matches(line.id, line.revision, line.digest))
          this.#findings.push(
            `a read of record ${line.id}, revision ${line.revision} gave something that nobody wrote`,
          );
        return;
      case "missing key":
        this.#missingKeys.push(line);
        return;
      case "failed": {
        const what = `${line.what}: ${line.code}`;
        this.counts.failures.set(what, (this.counts.failures.get(what) ?? 0) + 1);
        if (line.code === "decryption_failed" || line.code === "envelope_invalid")
          this.#findings.push(`a ${line.what} failed: ${line.code}: ${line.message}`);
      }
    }
  }

  #matches(id: number, revision: number, digest: string): boolean {
    return this.#intents.get(`${id}/${revision}`)?.has(digest) === true;
  }
}

function parsed(line: string): LedgerLine {
  return JSON.parse(line) as LedgerLine;
}
