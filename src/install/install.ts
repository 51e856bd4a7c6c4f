import { existsSync, realpathSync, statSync } from "node:fs";
import type { Config } from "../config/config.ts";
import { readConfigText } from "../config/config_file.ts";
import { settleConfig } from "../config/load.ts";
import { parseSecrets } from "../config/secrets_file.ts";
import { KekError } from "../errors/errors.ts";
import { addressOf } from "./address.ts";
import type { CurrentState } from "./current_state.ts";
import { type DesiredState, desiredStateOf } from "./desired_state.ts";
import { proveCarried } from "./first_key.ts";
import { generateSecrets } from "./generated_secrets.ts";
import { type Asked, checkHost, type HostFinding } from "./host_check.ts";
import { lookAtHost } from "./host_facts.ts";
import { LAYOUT } from "./layout.ts";
import { listenOf, planInstall } from "./plan.ts";
import { refuseDowngrade } from "./release_version.ts";
import type { InstallRequest } from "./request.ts";
import type { Step } from "./step.ts";
import { survey } from "./survey.ts";

/** Everything there is to know before the first change. */
export interface Prepared {
  found: CurrentState;
  wanted: DesiredState;
  steps: Step[];
  /** What the service will run with. */
  config: Config;
  /** What to know about the host, and does not keep it from being installed. */
  notes: HostFinding[];
}

/** A host that cannot be installed yet, with everything that is in the way. */
export class HostRefused extends KekError {
  readonly problems: HostFinding[];

  constructor(problems: [HostFinding, ...HostFinding[]]) {
    const [first, ...others] = problems;
    const listed = `this host cannot be installed yet: ${problems.length} problems, nothing was changed`;
    super(
      "refused",
      others.length === 0 ? `${first.message} (nothing was changed)` : listed,
      others.length === 0 ? first.hint : "each is listed above, with what to do",
    );
    this.problems = problems;
  }
}

/** Looks, refuses what cannot be, and plans. Nothing is written. @throws KekError. */
export async function prepareInstall(request: InstallRequest): Promise<Prepared> {
  const found = await survey(request);
  if (!request.allowDowngrade) refuseDowngrade(found.installedVersion, request.version);
  const material = generateSecrets();
  const wanted = desiredStateOf(request, found, material);
  const steps = planInstall(request, wanted, found, material);
  const content = (path: string) =>
    steps.findLast((step) => step.do === "file" && step.path === path) as { content: string };
  const secrets = parseSecrets(content(LAYOUT.secrets).content, LAYOUT.secrets);
  const complete = { CERTAUTOPILOT_DATABASE_URI: wanted.uri, ...secrets };
  const config = settleConfig(readConfigText(content(LAYOUT.config).content), complete, {}, LAYOUT.config);
  await proveCarried(secrets, found.database);
  const notes = request.root === "" ? await hostNotes(request, wanted, found, steps) : [];
  return { found, wanted, steps, config, notes };
}

// ---------------------------------------------------------------------------------------------------------------------

/** @throws HostRefused. */
async function hostNotes(
  request: InstallRequest,
  wanted: DesiredState,
  found: CurrentState,
  steps: Step[],
): Promise<HostFinding[]> {
  const asked = whatIsAsked(request, wanted, found, steps);
  const facts = await lookAtHost({
    places: [LAYOUT.etc, LAYOUT.state, LAYOUT.binary, LAYOUT.serviceUnit],
    readable: asked.needs.map(({ path }) => path),
    addresses: asked.listens.filter(({ isOurs }) => !isOurs).map(({ address }) => address),
    user: found.user,
    extraGroup: found.tokenGroup,
  });
  const findings = checkHost(asked, facts, found);
  const [first, ...others] = findings.filter(({ blocks }) => blocks);
  if (first !== undefined) throw new HostRefused([first, ...others]);
  return findings;
}

function whatIsAsked(request: InstallRequest, wanted: DesiredState, found: CurrentState, steps: Step[]): Asked {
  const { token, mongo } = wanted;
  const { units, entries, installed, mongod } = found;
  const setsUp = steps.some((step) => step.do === "local_database" && step.change);
  const need = (what: string, path: string | undefined) =>
    path === undefined ? [] : [{ what, path, real: realOf(what, path) }];
  const local =
    mongo.kind === "local" && (request.units === "started" || setsUp)
      ? [
          {
            address: `127.0.0.1:${mongo.port}`,
            flag: entries.has(LAYOUT.mongodConfig) ? undefined : "--mongo-port",
            what: "MongoDB",
            isOurs: units.mongod.active,
          },
        ]
      : [];
  const service = {
    address: listenOf(request, found),
    flag: "--listen",
    what: "the service",
    // The service itself has that port now, on whichever of the host's addresses.
    isOurs:
      units.service.active && addressOf(listenOf(request, found)).port === addressOf(installed?.listen ?? "").port,
  };
  return {
    steps,
    units: request.units,
    token: token !== undefined,
    programBytes: statSync(request.binary).size,
    needs: [
      ...need("mongod", mongo.kind === "local" ? mongod : undefined),
      ...need("the PKCS#11 library", token?.modulePath),
      ...need("the library's directory", token?.stateDirectory),
    ],
    listens: [...local, ...(request.units === "started" ? [service] : [])],
  };
}

function realOf(what: string, path: string): string {
  if (existsSync(path)) return realpathSync(path);
  throw new KekError("refused", `${what} ${path} is not there`, "install it again, or name another");
}
