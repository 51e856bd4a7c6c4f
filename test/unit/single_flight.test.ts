import { expect, test } from "bun:test";
import { SingleFlight } from "../../src/util/single_flight.ts";

/** Whoever asks gets a turn that begins after asking, and those who wait share it. */

function stepwise() {
  const begun: { end(): void; fail(error: Error): void }[] = [];
  const turns = new SingleFlight(
    () => new Promise<void>((resolve, reject) => void begun.push({ end: () => resolve(), fail: reject })),
  );
  return { turns, begun };
}

const later = () => new Promise((resolve) => setTimeout(resolve));

test("a turn in hand is not the one that is asked for; all who wait share the next", async () => {
  const { turns, begun } = stepwise();
  const first = turns.next();
  const [second, third] = [turns.next(), turns.next()];
  expect([begun.length, second === third]).toEqual([1, true]);
  begun[0]?.end();
  await first;
  await later();
  expect(begun.length).toBe(2);
  begun[1]?.end();
  await Promise.all([second, third]);
});

test("a turn that fails is told to those who asked for it, and the next one is had all the same", async () => {
  const { turns, begun } = stepwise();
  const first = turns.next();
  const second = turns.next();
  begun[0]?.fail(new Error("away"));
  await expect(first).rejects.toThrow("away");
  await later();
  begun[1]?.end();
  await second;
  expect(begun.length).toBe(2);
});

test("over waits for the turn in hand and the next, and throws nothing of theirs", async () => {
  const { turns, begun } = stepwise();
  const told = [turns.next(), turns.next()].map((turn) => turn.catch((thrown: Error) => thrown.message));
  let over = false;
  const ended = turns.over().then(() => {
    over = true;
  });
  begun[0]?.fail(new Error("one"));
  await later();
  expect(over).toBe(false);
  begun[1]?.fail(new Error("two"));
  await ended;
  expect(await Promise.all(told)).toEqual(["one", "two"]);
});
