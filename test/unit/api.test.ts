import { expect, test } from "bun:test";
import { Binary, type Document, EJSON, serialize } from "bson";
import fc from "fast-check";
import * as v from "valibot";
import { MAX_BODY_BYTES, MAX_PENDING_BYTES, MAX_REQUESTS, RequestBudget, readJson } from "../../src/server/api/body.ts";
import { BASE64_PATTERN, base64, recordId } from "../../src/server/api/extended_json.ts";
import { Refusal } from "../../src/server/api/problem.ts";

/** The API's rules that need no server. */

const codeOf = async (work: Promise<unknown>) => {
  const thrown = await work.then(
    () => undefined,
    (reason) => reason,
  );
  expect(thrown).toBeInstanceOf(Refusal);
  return (thrown as Refusal).problem.code;
};

test("so many requests and bytes are in hand, and one more is told to come again", async () => {
  const inHand = new RequestBudget();
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  const full = Array.from({ length: MAX_REQUESTS }, () => inHand.admit(() => held));
  expect(await codeOf(inHand.admit(async () => 1))).toBe("busy");
  release();
  await Promise.all(full);
  // Bytes of those that are refused, or done, are given back.
  const whole = MAX_PENDING_BYTES / MAX_BODY_BYTES;
  for (let round = 0; round < 2; round += 1) {
    const codes = await Promise.all(
      Array.from({ length: whole + 1 }, () =>
        inHand
          .admit(async (take) => {
            take(MAX_BODY_BYTES);
            await Bun.sleep(20);
            return "done";
          })
          .catch((thrown: Refusal) => thrown.problem.code),
      ),
    );
    expect(codes).toEqual([...Array.from({ length: whole }, () => "done"), "busy"]);
  }
});

test("500 requests at once are all served when none waits a second for its place", async () => {
  const inHand = new RequestBudget();
  const each = () => inHand.admit(async () => await Bun.sleep(50)).then(() => "done");
  const all = await Promise.all(Array.from({ length: 500 }, () => each().catch(() => "busy")));
  expect(all.filter((outcome) => outcome !== "done")).toEqual([]);
});

test("a body that is in pieces is one, and one that does not end is given up", async () => {
  const request = (body: ReadableStream<Uint8Array>) =>
    new Request("http://localhost/", {
      method: "POST",
      body,
      headers: { "content-type": "application/json; charset=utf-8" },
    });
  const bytes = new TextEncoder().encode('{"text":"\u{1F511}"}');
  let taken = 0;
  const pieces = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  const read = await readJson(request(pieces), (count) => {
    taken += count;
  });
  expect([read, taken]).toEqual([{ text: "\u{1F511}" }, bytes.length]);
  expect(await codeOf(readJson(request(new ReadableStream()), () => {}, 50))).toBe("body_too_slow");
});

test("base64 is read as its pattern says", () => {
  const pattern = new RegExp(BASE64_PATTERN);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const text = Buffer.from(bytes).toString("base64");
      expect(pattern.test(text)).toBe(true);
      expect(new Uint8Array(v.parse(base64, text))).toEqual(bytes);
    }),
  );
  const near = fc.string({ unit: fc.constantFrom(..."ABQgw09+/=-_ \n"), maxLength: 9 });
  fc.assert(
    fc.property(near, (text) => expect(v.is(base64, text)).toBe(pattern.test(text))),
    { numRuns: 2000 },
  );
});

test("an _id is byte for byte what bson makes of canonical extended JSON", () => {
  const int32 = fc.integer();
  const value = fc.oneof(
    fc.string({ unit: "grapheme" }),
    fc.boolean(),
    int32.map((n) => ({ $numberInt: String(n) })),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map((n) => ({ $numberLong: String(n) })),
    fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }).map((n) => ({ $numberDouble: `${n}.25` })),
    fc.constantFrom("NaN", "Infinity", "-Infinity").map((text) => ({ $numberDouble: text })),
    fc.integer().map((n) => ({ $numberDecimal: String(n) })),
    fc.uint8Array({ minLength: 12, maxLength: 12 }).map((bytes) => ({ $oid: Buffer.from(bytes).toString("hex") })),
    fc.uint8Array().map((bytes) => ({ $binary: { base64: Buffer.from(bytes).toString("base64"), subType: "80" } })),
    fc.date({ noInvalidDate: true, min: new Date(-1e14), max: new Date(1e14) }).map((at) => ({
      $date: { $numberLong: String(at.getTime()) },
    })),
    fc.tuple(fc.nat(), fc.nat()).map(([t, i]) => ({ $timestamp: { t, i } })),
  );
  const id = fc.oneof(value, fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), fc.oneof(value, fc.array(value))));
  fc.assert(
    fc.property(id, (json) => {
      const read = serialize({ _id: v.parse(recordId, json) });
      const expected = serialize(EJSON.deserialize({ _id: json } as Document, { relaxed: false }));
      expect(Buffer.from(read).equals(Buffer.from(expected))).toBe(true);
    }),
    { numRuns: 500 },
  );
  const uuid = v.parse(recordId, { $uuid: "00112233-4455-6677-8899-aabbccddeeff" }) as Binary;
  expect([uuid.sub_type, uuid.toString("hex")]).toEqual([Binary.SUBTYPE_UUID, "00112233445566778899aabbccddeeff"]);
});

test("what JSON's parser makes alike and a driver does not is refused, and so is what would keep everybody waiting", async () => {
  const read = (text: string) => {
    const headers = { "content-type": "application/json", "content-length": String(Buffer.byteLength(text)) };
    return readJson(new Request("http://localhost/", { method: "POST", body: text, headers }), () => undefined);
  };
  for (const number of ["5.0", "5e0", "50E-1", "-0", "-0.0", "1e400"]) {
    expect(await codeOf(read(`{"id":${number}}`))).toBe("request_invalid");
    expect(await codeOf(read(`[1, ${number}]`))).toBe("request_invalid");
  }
  for (const mayEncrypt of ['{"id":-5,"at":0}', '{"id":"a:5.0,-0"}', '{"id":{"$numberDouble":"5.0"}}']) {
    expect(await read(mayEncrypt)).toEqual(JSON.parse(mayEncrypt));
  }
  for (const sprawling of [
    `[${"1,".repeat(60_000)}1]`,
    `{"items":[${'{"id":{"a":1}},'.repeat(20_000)}1]}`,
    `${"[".repeat(5000)}${"]".repeat(5000)}`,
    `${'{"a":'.repeat(101)}1${"}".repeat(101)}`,
  ]) {
    expect(await codeOf(read(sprawling))).toBe("request_invalid");
  }
});
