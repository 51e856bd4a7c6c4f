import type { Config } from "../config/config.ts";
import { readConfigText } from "../config/config_file.ts";
import { settleConfig } from "../config/load.ts";
import { parseSecrets } from "../config/secrets_file.ts";
import { KekError } from "../errors/errors.ts";
import { proveCarried } from "./first_key.ts";
import type { Found } from "./found.ts";
import { LAYOUT } from "./layout.ts";
import { newMaterial } from "./material.ts";
import { canConnect, refuseTakenPort } from "./mongod_process.ts";
import { listenOf, planInstall } from "./plan.ts";
import type { InstallRequest } from "./request.ts";
import type { Step } from "./step.ts";
import { survey } from "./survey.ts";
import { settleWanted, type Wanted } from "./wanted.ts";

/** Everything there is to know before the first change. */
export interface Prepared {
  found: Found;
  wanted: Wanted;
  steps: Step[];
  /** What the service will run with. */
  config: Config;
}

/** Looks, refuses what cannot be, and plans. Nothing is written. @throws KekError. */
export async function prepareInstall(request: InstallRequest): Promise<Prepared> {
  const found = await survey(request);
  const material = newMaterial();
  const wanted = settleWanted(request, found, material);
  const steps = planInstall(request, wanted, found, material);
  const content = (path: string) =>
    steps.find((step) => step.do === "file" && step.path === path) as { content: string };
  const secrets = parseSecrets(content(LAYOUT.secrets).content, LAYOUT.secrets);
  const complete = { CERTAUTOPILOT_DATABASE_URI: wanted.uri, ...secrets };
  const config = settleConfig(readConfigText(content(LAYOUT.config).content), complete, {}, LAYOUT.config);
  await proveCarried(secrets, found.database);
  if (request.root === "") await refuseTakenPorts(request, wanted, found, steps);
  return { found, wanted, steps, config };
}

// ---------------------------------------------------------------------------------------------------------------------

async function refuseTakenPorts(request: InstallRequest, wanted: Wanted, found: Found, steps: Step[]): Promise<void> {
  const setsUp = steps.some((step) => step.do === "local_database" && step.change);
  if (setsUp && wanted.mongo.kind === "local") await refuseTakenPort(wanted.mongo.port);
  const listen = listenOf(request, found)
    .replace(/^0\.0\.0\.0:/, "127.0.0.1:")
    .replace(/^\[::\]:/, "[::1]:");
  const ours =
    found.units.service.active && (request.listen === undefined || request.listen === found.installed?.listen);
  if (request.units === "started" && !ours && (await canConnect(listen))) {
    throw new KekError(
      "refused",
      `${listenOf(request, found)} is taken: the service cannot listen there`,
      "name another with --listen=ADDRESS:PORT, or stop what listens there",
    );
  }
}
