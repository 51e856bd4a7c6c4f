import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import type { FieldEncryption } from "../src/index.ts";
import { withLibrary } from "./library.ts";
import { type Line, line, ratio } from "./line.ts";
import { quietlyWhole } from "./rounds.ts";
import { seed } from "./seed.ts";
import { FIELD, type Stage, say } from "./stage.ts";

/** The library's encrypt and decrypt beside bare node:crypto that does the same bytes: two GCM operations a call. */

const TOPIC = "Library against bare node:crypto, env";
const SIZES = [100, 1024, 65_536];
/** Until the runtime has compiled what is called so often, as in a service that runs for days. */
const WARM_MS = 2000;
const MEASURED_MS = 1000;
/** Calls that are awaited together: a service that seals a page of records. */
const TOGETHER = 32;

export async function hotPath(stage: Stage, rounds: number): Promise<Line[]> {
  say("hot path: the library against bare node:crypto");
  await seed(stage, "hot_path", 1);
  try {
    return await withLibrary(stage, "hot_path", async (kek) => {
      const lines: Line[] = [];
      for (const size of SIZES) lines.push(...(await ofSize(kek, size, rounds)));
      return lines;
    });
  } finally {
    await stage.client.db("hot_path").dropDatabase();
  }
}

// ---------------------------------------------------------------------------------------------------------------------

async function ofSize(kek: FieldEncryption, size: number, rounds: number): Promise<Line[]> {
  const plaintext = randomBytes(size);
  const place = { collection: FIELD.collection, id: 1, field: FIELD.path };
  const sealed = await kek.encrypt(plaintext, place);
  const bareSealed = bareSeal(plaintext);
  const works = {
    seal: [() => kek.encrypt(plaintext, place), () => bareSeal(plaintext), () => bareSealDrawnOnce(plaintext)],
    open: [() => kek.decrypt(sealed, place), () => bareOpen(bareSealed)],
  };
  const rates: Record<string, number[]> = {};
  for (let round = 0; round < rounds; round += 1)
    for (const [name, calls] of Object.entries(works)) {
      const each = await quietlyWhole(async () => {
        const taken: number[] = [];
        for (const call of calls) taken.push(await rateOf(call));
        return taken;
      });
      for (const [at, rate] of each.entries()) {
        const what = `${name} ${at}`;
        rates[what] = [...(rates[what] ?? []), rate];
      }
    }
  const of = (name: string) => rates[name] ?? [];
  const wanted = size === 1024 ? { atLeast: 0.7 } : undefined;
  return [
    line(TOPIC, `encrypt, ${size} bytes`, "calls/s", of("seal 0")),
    line(TOPIC, `encrypt / bare, ${size} bytes`, "×", ratio(of("seal 0"), of("seal 1")), wanted),
    line(
      TOPIC,
      `encrypt / bare with all random bytes from one call, ${size} bytes`,
      "×",
      ratio(of("seal 0"), of("seal 2")),
    ),
    line(TOPIC, `decrypt, ${size} bytes`, "calls/s", of("open 0")),
    line(TOPIC, `decrypt / bare, ${size} bytes`, "×", ratio(of("open 0"), of("open 1"))),
  ];
}

async function rateOf(call: () => unknown): Promise<number> {
  let calls = 0;
  const work = async (forMs: number) => {
    calls = 0;
    const began = performance.now();
    while (performance.now() - began < forMs) {
      await Promise.all(Array.from({ length: TOGETHER }, call));
      calls += TOGETHER;
    }
    return (calls * 1000) / (performance.now() - began);
  };
  await work(WARM_MS);
  return await work(MEASURED_MS);
}

interface BareSealed {
  key: Buffer;
  wrapped: Buffer[];
  sealed: Buffer[];
}

function seal(key: Buffer, iv: Buffer, aad: Buffer, data: Buffer): Buffer[] {
  const cipher = createCipheriv("aes-256-gcm", key, iv).setAAD(aad);
  const body = cipher.update(data);
  cipher.final();
  return [iv, body, cipher.getAuthTag()];
}

function open(key: Buffer, aad: Buffer, [iv, body, tag]: Buffer[]): Buffer {
  const decipher = createDecipheriv("aes-256-gcm", key, iv as Buffer)
    .setAAD(aad)
    .setAuthTag(tag as Buffer);
  const data = decipher.update(body as Buffer);
  decipher.final();
  return data;
}

/** As long as the library's for such a place. */
const AAD = randomBytes(110);
const KEK = randomBytes(32);

/** Seals under a new key, and that key under the KEK; each random value is asked for when it is needed. */
function bareSeal(plaintext: Buffer): BareSealed {
  const key = randomBytes(32);
  return {
    key,
    sealed: seal(key, randomBytes(12), AAD, plaintext),
    wrapped: seal(KEK, randomBytes(12), AAD, key),
  };
}

/** The same with all random bytes from one call: for each of them the call costs more than the bytes. */
function bareSealDrawnOnce(plaintext: Buffer): BareSealed {
  const random = randomBytes(32 + 12 + 12);
  const [key, iv, wrapIv] = [random.subarray(0, 32), random.subarray(32, 44), random.subarray(44)];
  return { key, sealed: seal(key, iv, AAD, plaintext), wrapped: seal(KEK, wrapIv, AAD, key) };
}

function bareOpen({ wrapped, sealed }: BareSealed): Buffer {
  return open(open(KEK, AAD, wrapped), AAD, sealed);
}
