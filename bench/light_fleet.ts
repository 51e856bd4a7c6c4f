import { openFieldEncryption } from "../src/index.ts";

/** So many processes of a fleet in one: each with its own connections, heartbeat and keys. They leave when stdin ends. */

const AT_ONCE = 20;
const count = Number(process.argv[2]);
const members: Awaited<ReturnType<typeof openFieldEncryption>>[] = [];
for (let start = 0; start < count; start += AT_ONCE) {
  const batch = Array.from({ length: Math.min(AT_ONCE, count - start) }, () => openFieldEncryption());
  members.push(...(await Promise.all(batch)));
}
process.stdout.write("joined\n");
await new Promise((resolve) => process.stdin.on("end", resolve).resume());
for (let start = 0; start < count; start += AT_ONCE)
  await Promise.all(members.slice(start, start + AT_ONCE).map((member) => member.close()));
