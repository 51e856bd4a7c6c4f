import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Manifest } from "./chart.ts";
import { BINARY, type Running, startCommand, type Variables } from "./program.ts";

/** The user and the group of the chart's pods. */
export const POD = 65532;
const SCRIPT = join(import.meta.dir, "../../deploy/schedule/certautopilot-rotate");

/** A node without a kubelet: runs the first container of a pod as its user, with its variables, beside its volumes. Needs root. */
export interface Node {
  /**
   * Lays a Secret's volume at a mount path, or changes it: a directory a version, and `..data`, which leads to it and is renamed over, as
   * Kubernetes' atomic_writer.go does; files are root's, of the group fsGroup, 0440.
   */
  mount(path: string, version: number, files: { [name: string]: string }): void;
  /** @param options.other a command in place of the container's, as `kubectl exec` gives one. */
  run(manifest: Manifest, options: { uri: string; name: string; other?: string[]; over?: Variables }): Running;
  /** Where a path of the pod is. */
  path(inside: string): string;
}

/** @param directory an empty one. */
export function podNode(directory: string): Node {
  const path = (inside: string) => join(directory, inside);
  chmodSync(directory, 0o755);
  for (const name of ["bin", "tmp"]) mkdirSync(path(name));
  chownSync(path("tmp"), POD, POD);
  copyFileSync(BINARY, path("bin/certautopilot"));
  copyFileSync(SCRIPT, path("bin/certautopilot-rotate"));
  return {
    path,
    mount(inside, version, files) {
      const volume = path(inside);
      mkdirSync(join(volume, `..v${version}`), { recursive: true });
      for (const [name, content] of Object.entries(files)) {
        const file = join(volume, `..v${version}`, name);
        writeFileSync(file, content);
        chownSync(file, 0, POD);
        chmodSync(file, 0o440);
        if (!existsSync(join(volume, name))) symlinkSync(`..data/${name}`, join(volume, name));
      }
      symlinkSync(`..v${version}`, join(volume, "..data_tmp"));
      renameSync(join(volume, "..data_tmp"), join(volume, "..data"));
    },
    run(manifest, { uri, name, other, over = {} }) {
      const [{ command, env }] = (manifest.spec.jobTemplate?.spec ?? manifest.spec).template.spec.containers;
      const variables = Object.fromEntries(
        // The only reference is to the Secret with the URI.
        env.map((one: Manifest) => [
          one.name,
          one.value?.replace(/^\/(etc\/certautopilot(?=\/)|tmp$)/, path("$1")) ?? uri,
        ]),
      );
      const user = [`--reuid=${POD}`, `--regid=${POD}`, "--clear-groups", "--no-new-privs", "--bounding-set=-all"];
      return startCommand(["setpriv", ...user, ...(other ?? command)], {
        ...variables,
        PATH: `${path("bin")}:/usr/bin:/bin`,
        CERTAUTOPILOT_INSTANCE_NAME: name,
        CERTAUTOPILOT_SERVER_LISTEN: "127.0.0.1:0",
        ...over,
      });
    },
  };
}
