import { loadConfig } from "../../src/config/load.ts";
import { keyCanaryOf, makeCanary } from "../../src/providers/canary.ts";
import { makeProvider, openToken } from "../../src/providers/registry.ts";
import { CKR, shimOver } from "./token.ts";

/** A process with two users of a token, one of which is closed while its call hangs. Prints what came of it, as JSON. */

const INSTALL = "an install";
const shim = shimOver(process.env["SHIM_CONTROL"] ?? "");
const first = await openToken(loadConfig(), undefined);
await first.make(1, INSTALL);
await first.load(1);
const proof = keyCanaryOf(await makeCanary(first, INSTALL, 1), INSTALL, "pkcs11", 1);
await first.load(1, proof);
const [recipe] = await first.recipes();
if (recipe === undefined) throw new Error("no recipe");
const second = makeProvider(recipe);
await second.load(1, proof);

const outcome = async (work: unknown): Promise<string> => {
  try {
    await work;
    return "done";
  } catch (thrown) {
    return String((thrown as { code?: string }).code ?? thrown);
  }
};
const within = async (ms: number, work: Promise<string>) =>
  await Promise.race([work, Bun.sleep(ms).then(() => "waits")]);

shim.set({ hang: 1 });
const hanging = outcome(second.unwrap(proof.wrap, proof.aad, 1));
await Bun.sleep(100);
const closing = await within(4000, outcome(second.close()));
const told = await within(100, hanging);
shim.set({ hang: 0 });
await Bun.sleep(500);

// The other one needs the module to be initialized again.
const before = shim.get("finalized");
shim.set({ away: CKR.CRYPTOKI_NOT_INITIALIZED });
const checking = outcome(first.check(1));
await Bun.sleep(2500);
shim.set({ away: 0 });
const checked = await within(10_000, checking);
console.log(JSON.stringify({ closing, told, checked, renewed: shim.get("finalized") > before }));
process.exit(0);
