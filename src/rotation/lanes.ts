import { Worker } from "node:worker_threads";
import type { Config } from "../config/config.ts";
import { threadEntry } from "../config/entry_points.ts";
import { KekError } from "../errors/errors.ts";
import type { Canary } from "../providers/canary.ts";
import type { ProviderRecipe } from "../providers/provider.ts";
import { HandOut } from "./hand_out.ts";
import type { OpenJob } from "./open_batch.ts";
import type { BatchFault, BatchJob, BatchResult } from "./rewrap_batch.ts";

/** A fixed set of worker threads, for rewrapping and for opening; each takes a few batches at a time. */

export type LaneJob = BatchJob | OpenJob;

export interface LaneData {
  database: Config["database"];
  provider: ProviderRecipe;
  installId: string;
  /** Each lane proves its own keys: it may read another secrets file than the preflight did. */
  keys: LaneKey[];
  /** `LeaseEnd.shared` of the coordinator; whoever only opens records holds none. */
  lease: SharedArrayBuffer | undefined;
}

export interface LaneKey extends Canary {
  version: number;
}

export interface LaneRequest {
  seq: number;
  job: LaneJob;
}

export type LaneReply = { seq: number; result: BatchResult } | { seq: number; error: BatchFault };

const WORKER = threadEntry("rotation/rewrap_worker.ts", import.meta.url);
/** A lane reads the next batch's keys while MongoDB is at work on the one before. */
const BATCHES_A_LANE = 4;

export class Lanes {
  readonly #lanes: Lane[];
  readonly #handOut: HandOut<Lane>;

  private constructor(lanes: Lane[]) {
    this.#lanes = lanes;
    this.#handOut = new HandOut(lanes, BATCHES_A_LANE);
  }

  /** One lane a recipe. */
  static async open(recipes: ProviderRecipe[], data: Omit<LaneData, "provider">): Promise<Lanes> {
    const lanes = recipes.map((provider) => new Lane({ ...data, provider }));
    try {
      await Promise.all(lanes.map((lane) => lane.ready));
    } catch (thrown) {
      await Promise.all(lanes.map((lane) => lane.close()));
      throw thrown;
    }
    return new Lanes(lanes);
  }

  get count(): number {
    return this.#lanes.length;
  }

  /** How many batches may be at work at once, of as many as the lanes take. */
  atMost(batches: number): void {
    this.#handOut.atMost(batches);
  }

  /** Waits for a free lane. Every lane that is taken is given back. */
  async take(): Promise<Lane> {
    return await this.#handOut.take();
  }

  give(lane: Lane): void {
    this.#handOut.give(lane);
  }

  async close(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.close()));
  }
}

export class Lane {
  readonly ready: Promise<void>;
  readonly #worker: Worker;
  readonly #pending = new Map<number, { resolve: (result: BatchResult) => void; reject: (error: Error) => void }>();
  #closed: (() => void) | undefined;
  #dead: Error | undefined;
  #seq = 0;

  constructor(data: LaneData) {
    this.#worker = new Worker(WORKER, { workerData: data });
    this.ready = new Promise((resolve, reject) => {
      this.#pending.set(0, { resolve: () => resolve(), reject });
    });
    this.ready.catch(() => undefined);
    this.#worker.on("message", (message: LaneReply | "ready" | "closed") => this.#receive(message));
    this.#worker.on("error", (error: Error) => this.#die(error));
    this.#worker.on("exit", () => this.#die(new Error("the lane's thread ended")));
  }

  async run(job: LaneJob): Promise<BatchResult> {
    if (this.#dead !== undefined) throw this.#dead;
    this.#seq += 1;
    const request: LaneRequest = { seq: this.#seq, job };
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

  #receive(message: LaneReply | "ready" | "closed"): void {
    if (message === "closed") {
      this.#closed?.();
      return;
    }
    const seq = message === "ready" ? 0 : message.seq;
    const waiting = this.#pending.get(seq);
    this.#pending.delete(seq);
    if (message === "ready") waiting?.resolve({ done: 0, skipped: 0, failed: [], fault: undefined });
    else if ("result" in message) waiting?.resolve(message.result);
    else waiting?.reject(laneError(message.error));
  }

  #die(error: Error): void {
    this.#dead ??= error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    this.#closed?.();
  }
}

/** A fault of a lane as this thread's error. */
export function laneError({ message, code }: BatchFault): KekError {
  // Of a token that is away it is of no interest who met it.
  const told = code === "hsm_away" ? message : `a rewrap lane failed: ${message}`;
  return new KekError(code, told, "run the same command again: it goes on from here");
}
