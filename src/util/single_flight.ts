/** Work that is done by one at a time, and that whoever asks wants begun after asking: those who wait share the next turn. */
export class SingleFlight {
  readonly #work: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(work: () => Promise<void>) {
    this.#work = work;
  }

  /** @throws what the turn throws that began after this call. */
  next(): Promise<void> {
    if (this.#running === undefined) {
      this.#running = this.#work().finally(() => {
        this.#running = undefined;
      });
      return this.#running;
    }
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        return this.next();
      });
    return this.#next;
  }

  /** Waits for the turn in hand and the one after it, however they end: who asked for them is told. */
  async over(): Promise<void> {
    for (;;) {
      const last = this.#next ?? this.#running;
      if (last === undefined) return;
      await last.catch(() => undefined);
    }
  }
}
