import { startPrivateMongod } from "../../src/demo/private_mongod.ts";

/** For scripts/test: a mongod for all test files. Prints its URI, and ends it when standard input closes. */
const mongod = await startPrivateMongod(process.argv[2] as string);
console.log(mongod.uri);
for await (const _ of process.stdin);
await mongod.stop();
