// Prints the parts of a release as CycloneDX 1.6, from package-lock.json alone: node scripts/sbom.mjs package-lock.json
// With --paths only where the packages of a program are, a line each, without those inside of others.
// No date and no random number: the same lock file gives the same bytes.
import { readFileSync } from "node:fs";

const { packages } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { "": root } = packages;

/** Where Node.js finds `name` for the package at `from`: in its own node_modules, or in those of a folder above. */
function found(from, name) {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf("node_modules/") - 1))) {
    const path = `${at === "" ? "" : `${at}/`}node_modules/${name}`;
    if (packages[path] !== undefined) return path;
    if (at === "") return undefined;
  }
}

const nameOf = (path) => packages[path].name ?? path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length);
const refOf = (path) => `pkg:npm/${nameOf(path).replace("@", "%40")}@${packages[path].version}`;

/** An optional or peer dependency that the lock file does not have is not in the release either. */
function dependenciesOf(path) {
  const { dependencies = {}, optionalDependencies = {}, peerDependencies = {} } = packages[path];
  const names = Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies });
  return names.map((name) => found(path, name)).filter((at) => at !== undefined && packages[at].dev !== true && packages[at].devOptional !== true);
}

const licensed = (expression) => (expression === undefined ? {} : { licenses: [/ /.test(expression) ? { expression } : { license: { id: expression } }] });

function component(path) {
  const { version, integrity, license } = packages[path];
  const content = Buffer.from(integrity.replace(/^sha512-/, ""), "base64").toString("hex");
  return {
    type: "library",
    "bom-ref": refOf(path),
    name: nameOf(path),
    version,
    purl: refOf(path),
    ...licensed(license),
    hashes: [{ alg: "SHA-512", content }],
  };
}

const paths = new Set();
for (const queue = dependenciesOf(""); queue.length > 0; ) {
  const path = queue.pop();
  if (paths.has(path)) continue;
  paths.add(path);
  queue.push(...dependenciesOf(path));
}
if (process.argv[3] === "--paths") {
  const outer = [...paths].filter((path) => path.lastIndexOf("node_modules/") === 0);
  process.stdout.write(outer.map((path) => `${path}\n`).join(""));
  process.exit();
}

// What no dependency names, but every program carries: Bun's runtimes.
const runtimes = ["bun-linux-x64", "bun-linux-x64-musl", "bun-linux-aarch64"].map((name) => `node_modules/@oven/${name}`);
const compiledIn = {
  type: "library",
  "bom-ref": "pkg:generic/libcxx@20.1.2",
  name: "libc++",
  version: "20.1.2",
  purl: "pkg:generic/libcxx@20.1.2",
  description: "LLVM's C++ library, linked into pkcs11.node by zig 0.15.2",
  ...licensed("Apache-2.0 WITH LLVM-exception"),
};
const inOrder = [...paths].sort();
const ref = `pkg:generic/${root.name}@${root.version}`;

const bom = {
  $schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
  bomFormat: "CycloneDX",
  specVersion: "1.6",
  version: 1,
  metadata: { component: { type: "application", "bom-ref": ref, name: root.name, version: root.version, purl: ref, ...licensed(root.license) } },
  components: [...[...inOrder, ...runtimes].map(component), compiledIn],
  dependencies: [
    { ref, dependsOn: [...dependenciesOf(""), ...runtimes].map(refOf).sort() },
    ...inOrder.map((path) => {
      const dependsOn = dependenciesOf(path).map(refOf);
      if (nameOf(path) === "pkcs11js") dependsOn.push(compiledIn["bom-ref"]);
      return { ref: refOf(path), dependsOn: [...new Set(dependsOn)].sort() };
    }),
    ...[...runtimes.map(refOf), compiledIn["bom-ref"]].map((each) => ({ ref: each, dependsOn: [] })),
  ],
};
process.stdout.write(`${JSON.stringify(bom, null, 2)}\n`);
