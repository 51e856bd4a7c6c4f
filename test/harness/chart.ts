import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";

/** The Helm chart, linted and rendered by the real Helm. */

export const CHART = join(import.meta.dir, "../../deploy/helm/certautopilot");
/** Undefined where there is no Helm. ./scripts/test sets it. */
export const HELM = process.env["CERTAUTOPILOT_TEST_HELM"];

// biome-ignore lint/suspicious/noExplicitAny: manifests are compared, not used
export type Manifest = any;
export type Values = { [key: string]: unknown };

export interface Rendered {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** `helm COMMAND`, with the values in a file. */
export async function helm(command: string[], values: Values = {}): Promise<Rendered> {
  const directory = mkdtempSync(join(tmpdir(), "certautopilot-helm-"));
  try {
    const file = join(directory, "values.json");
    writeFileSync(file, JSON.stringify(values));
    // Helm keeps what it has learnt of a cluster in the home of its user.
    const home = {
      HOME: directory,
      HELM_CACHE_HOME: directory,
      HELM_CONFIG_HOME: directory,
      HELM_DATA_HOME: directory,
    };
    return await ended([HELM ?? "helm", ...command, "-f", file], { PATH: process.env["PATH"] ?? "", ...home });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The manifests of a release `r` in the namespace `kek`. @throws Error when Helm refuses. */
export async function render(values: Values, more: string[] = ["--kube-version=1.35.0"]): Promise<Manifest[]> {
  const { code, stdout, stderr } = await helm(["template", "r", CHART, "--namespace=kek", ...more], values);
  if (code !== 0) throw new Error(stderr);
  return manifestsOf(stdout);
}

export function manifestsOf(text: string): Manifest[] {
  return parseAllDocuments(text)
    .map((document) => {
      if (document.errors.length > 0) throw document.errors[0];
      return document.toJS();
    })
    .filter((manifest) => manifest !== null);
}

/** The one of a kind. */
export function only(manifests: Manifest[], kind: string): Manifest {
  const found = manifests.filter((manifest) => manifest.kind === kind);
  if (found.length !== 1) throw new Error(`${found.length} of the kind ${kind}`);
  return found[0];
}

// ---------------------------------------------------------------------------------------------------------------------

async function ended(argv: string[], env: { [name: string]: string }): Promise<Rendered> {
  const [program = "", ...words] = argv;
  const child = spawn(program, words, { env, stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  return { code, stdout, stderr };
}
