import { Worker } from "node:worker_threads";
import type { Config } from "../config/config.ts";
import { threadEntry } from "../config/runtime.ts";
import { KekError } from "../errors/errors.ts";
import type { Canary } from "../providers/canary.ts";
import type { ProviderRecipe } from "../providers/provider.ts";
import type { OpenJob } from "./open_batch.ts";
import type { BatchFault, BatchJob, BatchResult } from "./rewrap_batch.ts";

/** A fixed set of worker threads, for rewrapping and for opening; each takes a few batches at a time. */

export type WorkerJob = BatchJob | OpenJob;

export interface WorkerSettings {
  database: Config["database"];
  provider: ProviderRecipe;
  installId: string;
  /** Each worker verifies its own keys: it may read another secrets file than the preflight did. */
  keys: WorkerKey[];
  /** `LeaseEnd.shared` of the coordinator; whoever only opens records holds none. */
  lease: SharedArrayBuffer | undefined;
}

export interface WorkerKey extends Canary {
  version: number;
}

export interface WorkerRequest {
  seq: number;
  job: WorkerJob;
}

export type WorkerReply = { seq: number; result: BatchResult } | { seq: number; error: BatchFault };

const WORKER = threadEntry("rotation/rewrap_worker.ts", import.meta.url);
/** A worker reads the next batch's keys while MongoDB is at work on the one before. */
const BATCHES_PER_WORKER = 4;

export class RewrapWorkers {
  readonly #workers: RewrapWorker[];
  readonly #queue: WorkerQueue<RewrapWorker>;

  private constructor(workers: RewrapWorker[]) {
    this.#workers = workers;
    this.#queue = new WorkerQueue(workers, BATCHES_PER_WORKER);
  }

  /** One worker a recipe. */
  static async open(recipes: ProviderRecipe[], data: Omit<WorkerSettings, "provider">): Promise<RewrapWorkers> {
    const workers = recipes.map((provider) => new RewrapWorker({ ...data, provider }));
    try {
      await Promise.all(workers.map((worker) => worker.ready));
    } catch (thrown) {
      await Promise.all(workers.map((worker) => worker.close()));
      throw thrown;
    }
    return new RewrapWorkers(workers);
  }

  get count(): number {
    return this.#workers.length;
  }

  /** How many batches may be at work at once, of as many as the workers take. */
  atMost(batches: number): void {
    this.#queue.atMost(batches);
  }

  /** Waits for a free worker. Every worker that is taken is given back. */
  async take(): Promise<RewrapWorker> {
    return await this.#queue.take();
  }

  give(worker: RewrapWorker): void {
    this.#queue.give(worker);
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.close()));
  }
}

export class RewrapWorker {
  readonly ready: Promise<void>;
  readonly #worker: Worker;
  readonly #pending = new Map<number, { resolve: (result: BatchResult) => void; reject: (error: Error) => void }>();
  #closed: (() => void) | undefined;
  #dead: Error | undefined;
  #seq = 0;

  constructor(data: WorkerSettings) {
    this.#worker = new Worker(WORKER, { workerData: data });
    this.ready = new Promise((resolve, reject) => {
      this.#pending.set(0, { resolve: () => resolve(), reject });
    });
    this.ready.catch(() => undefined);
    this.#worker.on("message", (message: WorkerReply | "ready" | "closed") => this.#receive(message));
    this.#worker.on("error", (error: Error) => this.#die(error));
    this.#worker.on("exit", () => this.#die(new Error("the worker's thread ended")));
  }

  async run(job: WorkerJob): Promise<BatchResult> {
    if (this.#dead !== undefined) throw this.#dead;
    this.#seq += 1;
    const request: WorkerRequest = { seq: this.#seq, job };
    return await new Promise((resolve, reject) => {
      this.#pending.set(request.seq, { resolve, reject });
      this.#worker.postMessage(request, [job.bytes.buffer as ArrayBuffer]);
    });
  }

  async close(): Promise<void> {
    const GIVE_UP_MS = 2000;
    if (this.#dead === undefined) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, GIVE_UP_MS);
        this.#closed = () => {
          clearTimeout(timer);
          resolve();
        };
        this.#worker.postMessage("close");
      });
    }
    await this.#worker.terminate();
  }

  #receive(message: WorkerReply | "ready" | "closed"): void {
    if (message === "closed") {
      this.#closed?.();
      return;
    }
    const seq = message === "ready" ? 0 : message.seq;
    const waiting = this.#pending.get(seq);
    this.#pending.delete(seq);
    if (message === "ready") waiting?.resolve({ done: 0, skipped: 0, failed: [], fault: undefined });
    else if ("result" in message) waiting?.resolve(message.result);
    else waiting?.reject(workerError(message.error));
  }

  #die(error: Error): void {
    this.#dead ??= error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    this.#closed?.();
  }
}

/** A fault of a worker as this thread's error. */
export function workerError({ message, code }: BatchFault): KekError {
  // Of a token that is unavailable it is of no interest who met it.
  const told = code === "hsm_unavailable" ? message : `a rewrap worker failed: ${message}`;
  return new KekError(code, told, "run the same command again: it continues from here");
}

// ---------------------------------------------------------------------------------------------------------------------

/** Who is free gets the next batch: each takes a few at a time, and all together no more than is allowed. Pure. */
export class WorkerQueue<T> {
  readonly #free: T[] = [];
  readonly #waiting: ((taken: T) => void)[] = [];
  #atWork = 0;
  #most = Number.POSITIVE_INFINITY;

  /** @param each how many batches each of them takes at a time. */
  constructor(all: T[], each: number) {
    for (let batch = 0; batch < each; batch += 1) this.#free.push(...all);
  }

  /** How many batches may be at work at once, of as many as all together take. What is at work beyond that is not disturbed. */
  atMost(batches: number): void {
    this.#most = batches;
    this.#go();
  }

  /** Waits for somebody who is free. Whoever is taken is given back, once. */
  async take(): Promise<T> {
    return await new Promise<T>((resolve) => {
      this.#waiting.push(resolve);
      this.#go();
    });
  }

  give(taken: T): void {
    this.#atWork -= 1;
    this.#free.push(taken);
    this.#go();
  }

  // -------------------------------------------------------------------------------------------------------------------

  #go(): void {
    while (this.#waiting.length > 0 && this.#atWork < this.#most) {
      // The one that was at work last: its code and data are warm.
      const next = this.#free.pop();
      if (next === undefined) return;
      this.#atWork += 1;
      this.#waiting.shift()?.(next);
    }
  }
}
