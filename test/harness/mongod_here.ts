import { spawnSync } from "node:child_process";
import { createServer } from "node:net";
import { join } from "node:path";

/** What it takes to start a mongod of one's own on this machine. */

/** What scripts/mongod finds. */
export function mongodBinary(): string {
  const given = process.env["CERTAUTOPILOT_MONGOD"];
  if (given !== undefined) return given;
  return spawnSync(join(import.meta.dir, "../../scripts/mongod"), { encoding: "utf8" }).stdout.trim();
}

/** Asked of the kernel and given back: another program could take it first. */
export async function unusedPort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
