import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, symlinkSync, unlinkSync } from "node:fs";
import process from "node:process";
import type { Config, ProviderName } from "../config/config.ts";
import { hostName } from "../config/environment.ts";
import { crashPoint } from "../errors/crash_point.ts";
import { KekError } from "../errors/errors.ts";
import type { Log } from "../errors/log.ts";
import type { LocalDatabase } from "../store/local_users.ts";
import { makeAbove, type PlacedFile, placeCopy, placeDirectory, placeText, replaceText } from "./atomic_file.ts";
import { must } from "./command.ts";
import type { CurrentState, Ids } from "./current_state.ts";
import type { DesiredState } from "./desired_state.ts";
import { installedPackages, installPackages } from "./find_mongod.ts";
import { isLocked, makeFirstKey } from "./first_key.ts";
import { LAYOUT, MONGOD_OF_PACKAGES, wantsLink } from "./layout.ts";
import { canConnect, MongodProcess } from "./mongod_process.ts";
import type { InstallRequest } from "./request.ts";
import { awaitUnit, notReady, startUnit } from "./service_readiness.ts";
import { type Action, idsOf, type Owner, type Step } from "./step.ts";
import { makeUser, removeAccounts } from "./system_user.ts";
import { systemctl } from "./systemd.ts";
import { UndoList } from "./undo_list.ts";

/** Does a plan's steps, one after the other, and undoes them all when one fails. */

export interface Applying {
  request: InstallRequest;
  wanted: DesiredState;
  found: CurrentState;
  /** What the service will run with. */
  config: Config;
  log: Log;
  /** Aborted by Ctrl-C: the step in hand is finished, and all is undone. */
  interrupted: AbortSignal;
}

/** @throws KekError of the step that failed; its hint says whether anything is left on the host. */
export async function applyPlan(steps: Step[], applying: Applying): Promise<void> {
  const run = new Run(applying);
  try {
    for (const step of steps) {
      if (!step.change) continue;
      if (applying.interrupted.aborted) throw interruption();
      applying.log.info(`… ${step.title}`);
      await run.perform(step);
      if (import.meta.crashPoints) crashPoint("install.step");
    }
    await run.end();
    run.undoList.settle();
  } catch (thrown) {
    // What a signal has brought down with it is no fault of its own.
    throw await undone(run, applying.interrupted.aborted ? interruption() : thrown, applying.log);
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function interruption(): KekError {
  return new KekError("cancelled", "interrupted", "run it again when you are ready");
}

async function undone(run: Run, thrown: unknown, log: Log): Promise<unknown> {
  log.warn("it failed: what was done is undone");
  await run.end();
  const left = await run.undoList.undo();
  for (const what of left) log.warn(`left: ${what}`);
  const { code, message, hint } =
    thrown instanceof KekError ? thrown : new KekError("unexpected", String(thrown), "report this");
  const state = left.length === 0 ? "the host is as it was before" : "what is left on the host is listed above";
  return new KekError(code, message, `${hint} (${state}; the same command may be run again)`, { cause: thrown });
}

type Performers = { [K in Action["do"]]: (action: Extract<Action, { do: K }>, title: string) => Promise<void> | void };

class Run {
  readonly undoList = new UndoList();
  readonly #applying: Applying;
  readonly #root: string;
  #user: Ids | undefined;
  #mongod: MongodProcess | undefined;
  /** Whether this run made the database, from an empty directory. */
  #databaseIsNew = false;
  /** Files that this run has placed: the first time says what is put back. */
  readonly #files = new Set<string>();

  constructor(applying: Applying) {
    this.#applying = applying;
    this.#root = applying.request.root;
    this.#user = applying.found.user;
  }

  async perform({ title, ...action }: Step): Promise<void> {
    const performer = this.#performers[action.do] as (action: Action, title: string) => Promise<void> | void;
    await performer(action, title);
  }

  /** Ends what was started to work with, and is not to go on. */
  async end(): Promise<void> {
    await this.#mongod?.stop();
    this.#mongod = undefined;
  }

  readonly #performers: Performers = {
    remove_leftover: ({ path }) => rmSync(this.#at(path), { force: true }),
    packages: async ({ names }, title) => {
      this.undoList.did({
        what: title,
        async undo() {
          const there = await installedPackages(names);
          if (there.length > 0)
            throw new Error(`${there.join(" ")} stay, remove them with apt-get if they are not wanted`);
        },
      });
      await installPackages(names);
    },
    user: async (_action, title) => {
      this.#user = await makeUser(this.#root);
      this.undoList.did({ what: title, undo: () => removeAccounts(this.#root), keeps: true });
    },
    directory: ({ path, mode, owner }, title) => {
      this.#placed(title, placeDirectory(this.#at(path), this.#rights(mode, owner)), true);
    },
    file: ({ path, mode, owner, content, keeps }, title) => {
      this.#refuseEdited(path);
      this.#aboveOf(path);
      const rights = this.#rights(mode, owner);
      if (this.#files.has(path)) return replaceText(this.#at(path), rights, content);
      this.#placed(title, placeText(this.#at(path), rights, content), keeps);
      this.#files.add(path);
    },
    binary: ({ path, from }, title) => {
      this.#aboveOf(path);
      this.#placed(title, placeCopy(this.#at(path), this.#rights(0o755, "root"), from), false);
    },
    local_database: async ({ database, mongod }) => await this.#setUpDatabase(database, mongod),
    first_key: async ({ provider }) => await this.#firstKey(provider),
    reload: async () => {
      this.undoList.afterUndo({ what: "systemd's units", undo: () => systemctl("daemon-reload") });
      await systemctl("daemon-reload");
    },
    enable: async ({ unit }, title) => await this.#enable(unit, title),
    start: async ({ unit, restart }, title) => await this.#start(unit, restart, title),
    listening: async ({ unit, address }) => {
      const listens = async () => ((await canConnect(address)) ? undefined : "it does not listen yet");
      await awaitUnit(unit, address, listens, this.#applying);
    },
    ready: async ({ unit, url }) => await awaitUnit(unit, url, async () => await notReady(url), this.#applying),
  };

  #at(path: string): string {
    return `${this.#root}${path}`;
  }

  #rights(mode: number, owner: Owner) {
    return { mode, ids: this.#applying.found.privileged ? idsOf(owner, this.#user) : undefined };
  }

  #placed(what: string, { undo, settle }: PlacedFile, keeps: boolean): void {
    this.undoList.did({ what, undo, settle, keeps });
  }

  /** The plan was made from what was there before the question was asked. A line that came since would be lost. */
  #refuseEdited(path: string): void {
    if (this.#files.has(path)) return;
    const seen = this.#applying.found.entries.get(path)?.content;
    const there = existsSync(this.#at(path)) ? readFileSync(this.#at(path), "utf8") : undefined;
    if (there === seen) return;
    throw new KekError(
      "refused",
      `${path} was changed while install was at work, and what was added to it would be lost`,
      "run it again: the plan is made from the file as it is now",
    );
  }

  #aboveOf(path: string): void {
    const made = makeAbove(this.#at(path));
    for (const above of made) this.undoList.did({ what: `directory ${above}`, undo: () => rmdirSync(above) });
  }

  async #setUpDatabase(database: LocalDatabase, mongod: string): Promise<void> {
    const data = this.#at(LAYOUT.mongodData);
    this.#databaseIsNew = readdirSync(data).length === 0;
    if (this.#databaseIsNew) {
      // By find, which goes by open directories: the service's user owns this one, and could put a link in its place.
      const empty = async () => void (await must(["find", data, "-mindepth", "1", "-delete"]));
      this.undoList.did({ what: `MongoDB's files in ${data}`, undo: empty, keeps: true });
    }
    this.#mongod = await MongodProcess.start(mongod, this.#userIds());
    await this.#mongod.setUp(database);
  }

  async #firstKey(provider: ProviderName): Promise<void> {
    const { config, wanted, found } = this.#applying;
    const { mongo, token } = wanted;
    if (mongo.kind === "local" && this.#mongod === undefined && !(await canConnect(`127.0.0.1:${mongo.port}`))) {
      this.#mongod = await MongodProcess.start(found.mongod ?? MONGOD_OF_PACKAGES, this.#userIds());
      await this.#mongod.listening(`127.0.0.1:${mongo.port}`);
    }
    const actor = `install on ${hostName()} pid ${process.pid}`;
    try {
      await makeFirstKey(provider, { config, token, tokenGroup: found.tokenGroup, user: this.#userIds(), actor });
    } finally {
      // A database of this very run goes with its keys; any other, and a token, knows them from now on.
      const forgettable = this.#databaseIsNew && token === undefined;
      if (!forgettable && (await isLocked(config))) this.undoList.keysAreKnown(`database "${config.database.name}"`);
    }
  }

  async #enable(unit: string, title: string): Promise<void> {
    if (this.#root !== "") {
      const link = this.#at(wantsLink(unit));
      this.#aboveOf(wantsLink(unit));
      symlinkSync(`/etc/systemd/system/${unit}`, link);
      return this.undoList.did({ what: title, undo: () => unlinkSync(link) });
    }
    this.undoList.did({ what: title, undo: () => systemctl("disable", "--quiet", unit) });
    await systemctl("enable", "--quiet", unit);
  }

  async #start(unit: string, restart: boolean, title: string): Promise<void> {
    await this.end();
    // It continues as it was, once the files are as they were.
    if (restart) this.undoList.afterUndo({ what: `${unit} as it was`, undo: () => systemctl("restart", unit) });
    const stop = async () => {
      await systemctl("stop", unit);
      await systemctl("reset-failed", unit).catch(() => undefined);
    };
    this.undoList.did({ what: title, undo: stop });
    await startUnit(restart ? "restart" : "start", unit, this.#applying.log);
  }

  #userIds(): Ids {
    if (this.#user === undefined) throw new Error("the system user is not there yet");
    return this.#user;
  }
}
