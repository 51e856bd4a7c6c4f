import { KekError, messageOf } from "../errors/errors.ts";
import { setFence } from "../fleet/fence_keeper.ts";
import { seconds } from "../fleet/readiness.ts";
import type { Phase, RotationDoc } from "../store/documents.ts";
import { isTransient } from "../store/failures.ts";
import { readFields } from "../store/fields.ts";
import { releaseLease } from "../store/rotation_lease.ts";
import { recordFence } from "../store/rotation_records.ts";
import { advancePhase, completeRotation } from "../store/rotation_steps.ts";
import { awaitAcknowledgements } from "./acknowledgements.ts";
import { batchLimitMs, type Context, type Reporter } from "./context.ts";
import { Lanes } from "./lanes.ts";
import { LeaseKeeper } from "./lease.ts";
import { type RewrapOptions, Rewrapper } from "./rewrap.ts";

/** Leads one rotation through its phases: compare-and-set, then wait for every member, then the phase's own work. */

export interface CoordinatorOptions extends RewrapOptions {
  concurrency: number;
  fence: "auto" | "off";
}

export interface RotationSummary {
  rotation: number;
  from: number;
  to: number;
  rewrapped: number;
  seconds: number;
  fenced: boolean;
}

const MEANING: Record<Phase, (from: number, to: number) => string> = {
  1: (from, to) => `announce: every process loads version ${to} and goes on writing under ${from}`,
  2: (from, to) => `re-wrap: every process writes under version ${to}, records move from ${from} to ${to}`,
  3: (from, to) => `settle: every process gives version ${from} up and keeps ${to} only`,
};

export class Coordinator {
  readonly #context: Context;
  readonly #options: CoordinatorOptions;
  readonly #reporter: Reporter;
  readonly #lease: LeaseKeeper;
  #doc: RotationDoc;
  #rewrapped = 0;
  #fenced = false;

  constructor(context: Context, doc: RotationDoc, options: CoordinatorOptions, reporter: Reporter) {
    this.#context = context;
    this.#doc = doc;
    this.#options = options;
    this.#reporter = reporter;
    this.#lease = new LeaseKeeper(context.store, doc, context.config.fleet.leaseMs);
  }

  /** @throws KekError `cancelled`, `lease_lost`, `incomplete`, `not_acknowledged`, and what MongoDB says. */
  async run(): Promise<RotationSummary> {
    const began = performance.now();
    this.#lease.start();
    try {
      if (this.#doc.phase === 1) await this.#announce();
      if (this.#doc.phase === 2) await this.#rewrap();
      await this.#settle();
    } finally {
      await this.#lease.stop();
      await releaseLease(this.#context.store, this.#lease.held).catch((thrown) => {
        this.#reporter.note(`the lease could not be given back, it runs out by itself: ${messageOf(thrown)}`);
      });
    }
    const { _id: rotation, from, to } = this.#doc;
    return {
      rotation,
      from,
      to,
      rewrapped: this.#rewrapped,
      seconds: (performance.now() - began) / 1000,
      fenced: this.#fenced,
    };
  }

  // -------------------------------------------------------------------------------------------------------------------

  async #announce(): Promise<void> {
    await this.#enter(1);
    const { to, fence } = this.#doc;
    // Also when the record says so already: whoever lifted it may have died before it told the collections.
    if (fence.collections.length > 0) await this.#fence(fence.versions.filter((version) => version !== to));
    if (fence.versions.includes(to)) {
      this.#reporter.note(`the fence against version ${to} is lifted: it will be written again`);
    }
    await this.#advance(2);
  }

  async #rewrap(): Promise<void> {
    await this.#enter(2);
    const { config, install } = this.#context;
    const { from, to } = this.#doc;
    const lanes = await Lanes.open(this.#options.concurrency, {
      database: config.database,
      provider: { encryption: config.encryption, secretsFile: config.secretsFile },
      installId: install.install_id,
      from,
      to,
    });
    const rewrapper = new Rewrapper(this.#context, this.#lease, lanes, this.#doc, this.#options, this.#reporter);
    try {
      const before = rewrapper.done;
      do {
        await rewrapper.toZero();
        // A process that joined meanwhile must write under the new version as well before the fence goes up.
        await awaitAcknowledgements(this.#context, this.#lease, 2, this.#reporter);
        await this.#raiseFence();
        if (!this.#fenced) await this.#waitUnfenced();
      } while ((await rewrapper.census()) > 0);
      this.#rewrapped = rewrapper.done - before;
    } finally {
      await lanes.close();
      await rewrapper
        .save()
        .catch((thrown) => this.#reporter.note(`the counts could not be saved: ${messageOf(thrown)}`));
    }
    await this.#advance(3);
  }

  async #settle(): Promise<void> {
    await this.#enter(3);
    const completed = await this.#steadily(() =>
      completeRotation(this.#context.store, this.#context.auditor, this.#lease.held),
    );
    if (completed === undefined) await this.#lease.refused();
  }

  async #enter(phase: Phase): Promise<void> {
    this.#reporter.phase(phase, MEANING[phase](this.#doc.from, this.#doc.to));
    await awaitAcknowledgements(this.#context, this.#lease, phase, this.#reporter);
  }

  async #advance(phase: Phase): Promise<void> {
    this.#lease.check();
    const doc = await this.#steadily(() =>
      advancePhase(this.#context.store, this.#context.auditor, this.#lease.held, phase),
    );
    if (doc === undefined) return await this.#lease.refused();
    this.#doc = doc;
    this.#lease.moved(doc);
  }

  async #raiseFence(): Promise<void> {
    const { from, to, fence } = this.#doc;
    if (this.#options.fence === "off") return;
    const versions = [...new Set([...fence.versions, from])].filter((version) => version !== to).sort((a, b) => a - b);
    const unfenced = await this.#fence(versions);
    this.#fenced = unfenced.length === 0;
    if (this.#fenced) this.#reporter.note(`the fence is up: MongoDB rejects envelopes of version ${from} from now on`);
    else
      this.#reporter.note(
        `the fence could not be set on ${unfenced.join(", ")}: the zero census is taken twice instead`,
      );
  }

  async #fence(versions: number[]): Promise<string[]> {
    const { store, auditor } = this.#context;
    this.#lease.check();
    const outcome = await setFence(store, await readFields(store), this.#doc.fence, versions, async (fence) => {
      const recorded = await recordFence(store, auditor, this.#lease.held, fence);
      if (recorded) this.#doc = { ...this.#doc, fence };
      return recorded;
    });
    if (outcome === undefined) return await this.#lease.refused();
    return outcome.unfenced.map((entry) => `${entry.collection} (${entry.reason})`);
  }

  /** Without a fence: two zero censuses, further apart than the lease plus the longest write. */
  async #waitUnfenced(): Promise<void> {
    const { config } = this.#context;
    const apart = config.fleet.leaseMs + batchLimitMs(config);
    this.#reporter.note(`no fence: waiting ${seconds(apart)} before the second census`);
    const until = performance.now() + apart;
    while (performance.now() < until) {
      this.#lease.check();
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }

  /** A conditional change whose answer got lost is tried again: whether it had happened shows in the state. */
  async #steadily<T>(change: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await change();
      } catch (thrown) {
        if (!(isTransient(thrown) && !(thrown instanceof KekError)) || this.#lease.ended) throw thrown;
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    }
  }
}
