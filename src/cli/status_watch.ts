import process from "node:process";
import { messageOf } from "../errors/errors.ts";
import type { StatusReader } from "../status/read_status.ts";
import type { StatusView } from "../status/status_view.ts";
import { isTransient } from "../store/mongodb_errors.ts";
import { seconds } from "../util/duration.ts";
import type { Output } from "./output.ts";
import { Display, type Screen } from "./screen.ts";
import { statusLine, statusLines } from "./status_text.ts";
import { wrapped } from "./table.ts";

/** `kek status --watch`: looks once a second until it is stopped, also while MongoDB is unavailable. */

const EVERY_MS = 1000;
/** No answer for so long is worth a word. */
const SLOW_MS = 3000;

/** What somebody who watches is shown. */
interface Shows {
  seen(view: StatusView): void;
  /** Each second. @param away why nothing newer is known, if it is so. */
  tick(ageMs: number, away: string | undefined): void;
  close(): void;
}

/**
 * Returns on Ctrl-C, SIGTERM, and when nobody reads any more.
 * @throws KekError what keeps it from looking at all, but for a MongoDB that is unavailable.
 */
export async function watchStatus(reader: StatusReader, output: Output): Promise<void> {
  // The first look is as that of `kek status`: what is wrong then is wrong with the command.
  const first = await reader.read();
  const stopped = stopSignal();
  const { screen } = output;
  const shows = screen?.redraws === true ? onScreen(screen) : onLines(output);
  try {
    shows.seen(first);
    await lookAgain(reader, shows, stopped);
  } finally {
    shows.close();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function lookAgain(reader: StatusReader, shows: Shows, stopped: Promise<"stopped">): Promise<void> {
  let seenAt = performance.now();
  let away: string | undefined;
  let failure: { thrown: unknown } | undefined;
  let looking = false;
  const look = async () => {
    looking = true;
    try {
      shows.seen(await reader.read());
      seenAt = performance.now();
      away = undefined;
    } catch (thrown) {
      if (isTransient(thrown)) away = messageOf(thrown);
      else failure = { thrown };
    }
    looking = false;
  };
  for (;;) {
    const next = new Promise<"next">((resolve) => setTimeout(resolve, EVERY_MS, "next"));
    if ((await Promise.race([next, stopped])) === "stopped") return;
    if (failure !== undefined) throw failure.thrown;
    const ageMs = performance.now() - seenAt;
    shows.tick(ageMs, away ?? (ageMs > SLOW_MS ? "it does not answer" : undefined));
    if (!looking) void look();
  }
}

/** A second Ctrl-C ends the process as it would without this. */
async function stopSignal(): Promise<"stopped"> {
  return await new Promise((resolve) => {
    const stop = () => resolve("stopped");
    process.once("SIGINT", stop);
    process.once("SIGTERM", stop);
    // A pipe whose reader has gone.
    process.stdout.once("error", stop);
  });
}

function onScreen(screen: Screen): Shows {
  const display = new Display(screen);
  let last: StatusView | undefined;
  let banner: string | undefined;
  const draw = () => {
    if (last === undefined) return;
    const paper = { width: screen.columns - 1, paint: screen.paint };
    const above = banner === undefined ? [] : wrapped("", banner, paper.width).map((line) => screen.paint("bad", line));
    display.show([...above, ...statusLines(last, paper)]);
  };
  process.stdout.on("resize", draw);
  return {
    seen(view) {
      last = view;
      banner = undefined;
      draw();
    },
    tick(ageMs, away) {
      if (away === undefined) return;
      banner = `MongoDB is unavailable (${away}); below is how it was ${seconds(ageMs)} ago`;
      draw();
    },
    close() {
      process.stdout.off("resize", draw);
      display.close();
      if (last !== undefined) process.stdout.write(`${statusLine(last)}\n`);
    },
  };
}

/** Where nothing can be redrawn: a line when there is something new. */
function onLines(output: Output): Shows {
  let told = "";
  let toldAway = false;
  return {
    seen(view) {
      const news = newsOf(view);
      if (news !== told) output.line(statusLine(view), view);
      if (toldAway) output.log.info("MongoDB is back");
      told = news;
      toldAway = false;
    },
    tick(_, away) {
      if (away !== undefined && !toldAway)
        output.log.warn(`MongoDB is unavailable (${away}): looking again each second`);
      toldAway ||= away !== undefined;
    },
    close() {},
  };
}

/** What of a view is worth a line when it changes: no ages, no rates, of progress each tenth. */
function newsOf({ health, versions, rotation, processes, audit }: StatusView): string {
  const moved = rotation === null ? 0 : rotation.done / Math.max(1, rotation.done + rotation.remaining);
  return JSON.stringify([
    health.level,
    health.findings.length,
    versions.map(({ version, state, overdue }) => [version, state, overdue]),
    rotation === null ? null : { ...essence(rotation), moved: Math.floor(moved * 10) },
    processes.map(({ id, silent, loaded, current_version, write_version, problems }) => [
      id,
      silent,
      loaded,
      current_version,
      write_version,
      problems.length,
    ]),
    audit.chain.state,
  ]);
}

function essence({ rotation, phase, state, led, awaited, failed_count }: NonNullable<StatusView["rotation"]>) {
  return { rotation, phase, state, led, awaited, failed_count };
}
