import type { Part } from "./fleet.ts";
import type { Scene } from "./scene.ts";
import type { Act } from "./schedule.ts";

/** What is done to a fleet and its replica set, act by act; over when everything is as it was, or gone for good. */

export async function perform(scene: Scene, act: Act): Promise<void> {
  const { services, serving, coordinators } = scene.fleet;
  switch (act.act) {
    case "rotate":
      return await scene.rotate(act.to, act.from);
    case "declare":
      return scene.declare(act.to);
    case "cancel": {
      const part = scene.fleet.command(["kek", "rotate", "--cancel"]);
      scene.cancels.push(part);
      return await scene.ended(part);
    }
    case "kill coordinators":
      for (const part of scene.fleet.living(coordinators)) scene.fleet.kill(part);
      return;
    case "pause coordinators":
      return void (await Promise.all(scene.fleet.living(coordinators).map((part) => scene.fleet.pause(part, act.ms))));
    case "join":
      return void scene.join(0);
    case "kill service":
      return scene.fleet.kill(nth(scene.fleet.living(services), act.n));
    case "pause service":
      return await scene.fleet.pause(nth(scene.fleet.living(services), act.n), act.ms);
    case "leave":
      return void (await scene.fleet.end([nth(scene.fleet.living(services), act.n)], 20_000));
    case "kill serve":
      scene.fleet.kill(nth(scene.fleet.living(serving), act.n));
      return void scene.fleet.serve();
    case "pause serve":
      return await scene.fleet.pause(nth(scene.fleet.living(serving), act.n), act.ms);
    case "fill token's disk":
      scene.tokenVolume?.fill();
      await Bun.sleep(act.ms);
      return scene.tokenVolume?.free();
    case "rename away":
    case "hide index":
    case "drop index":
    case "odd index":
    case "empty kek_fields":
    case "unregister":
    case "put back":
      return await scene.accidents.perform(act);
    case "repair":
      return await scene.repair();
    case "remove":
      return await scene.remove(act.version);
    default:
      return await performOnMongo(scene, act);
  }
}

async function performOnMongo(scene: Scene, act: Act): Promise<void> {
  const set = scene.set;
  const primary = (await set.primary()) ?? 0;
  const [secondary = 1, other = 2] = await set.secondaries();
  switch (act.act) {
    case "kill primary":
      set.kill(primary);
      await Bun.sleep(act.ms);
      return set.restart(primary);
    case "step down":
      return await set.stepDown();
    case "lose secondary":
      set.kill(secondary);
      await Bun.sleep(act.ms);
      return set.restart(secondary);
    case "empty secondary":
      return await set.empty(secondary);
    case "isolate and kill primary":
      // What it takes now it takes alone; then it dies, and the others go on without.
      set.signal(secondary, "SIGSTOP");
      set.signal(other, "SIGSTOP");
      // What it has sent already, or would send by itself, must not wait for them in a buffer. Clients connect again.
      set.proxy(primary).drop();
      await Bun.sleep(act.ms);
      set.kill(primary);
      set.signal(secondary, "SIGCONT");
      set.signal(other, "SIGCONT");
      await Bun.sleep(1000);
      return set.restart(primary);
    case "slow network":
      for (const member of [primary, secondary, other]) set.proxy(member).slow(act.delayMs);
      await Bun.sleep(act.ms);
      for (const member of [primary, secondary, other]) set.proxy(member).heal();
      return;
    case "cut off":
      set.proxy(act.n % 3).cut();
      await Bun.sleep(act.ms);
      return set.proxy(act.n % 3).heal();
    case "fill disk":
      set.fillDisk();
      await Bun.sleep(act.ms);
      return await set.heal();
  }
}

function nth(parts: Part[], n: number): Part {
  if (parts.length === 0) throw new Error("nobody is left");
  return parts[n % parts.length] as Part;
}
