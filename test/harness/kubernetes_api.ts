import { createServer } from "node:http";

/** As much of a cluster's API as Helm asks for while it renders: what kinds there are, the Service that every cluster has, and one Secret. */
export interface KubernetesApi {
  url: string;
  /** The Secret that the cluster holds; none when undefined. */
  secret: { data: { [key: string]: string } } | undefined;
  stop(): Promise<void>;
}

export async function kubernetesApi(): Promise<KubernetesApi> {
  const server = createServer((request, response) => {
    const found = answerTo(new URL(request.url ?? "/", "http://cluster").pathname, api.secret);
    response.writeHead(found === undefined ? 404 : 200, { "content-type": "application/json" });
    response.end(JSON.stringify(found ?? { kind: "Status", status: "Failure", reason: "NotFound", code: 404 }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));
  const api: KubernetesApi = {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    secret: undefined,
    stop: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  return api;
}

// ---------------------------------------------------------------------------------------------------------------------

const KINDS: { [groupVersion: string]: { [resource: string]: string } } = {
  v1: { secrets: "Secret", services: "Service", serviceaccounts: "ServiceAccount" },
  "apps/v1": { deployments: "Deployment" },
  "batch/v1": { jobs: "Job", cronjobs: "CronJob" },
  "networking.k8s.io/v1": { networkpolicies: "NetworkPolicy" },
  "policy/v1": { poddisruptionbudgets: "PodDisruptionBudget" },
};

function answerTo(path: string, secret: KubernetesApi["secret"]): object | undefined {
  if (path === "/version") return { major: "1", minor: "35", gitVersion: "v1.35.0" };
  if (path === "/api") return { kind: "APIVersions", versions: ["v1"] };
  if (path === "/apis") {
    const groups = Object.keys(KINDS)
      .filter((groupVersion) => groupVersion !== "v1")
      .map((groupVersion) => {
        const [name, version] = groupVersion.split("/");
        const only = { groupVersion, version };
        return { name, versions: [only], preferredVersion: only };
      });
    return { kind: "APIGroupList", apiVersion: "v1", groups };
  }
  if (path.endsWith("/services/kubernetes"))
    return { apiVersion: "v1", kind: "Service", metadata: { name: "kubernetes" } };
  if (path.includes("/secrets/")) {
    const metadata = {
      name: path.split("/").at(-1),
      namespace: "kek",
      // As Helm marks what it has laid down: it leaves alone what it has not.
      labels: { "app.kubernetes.io/managed-by": "Helm" },
      annotations: { "meta.helm.sh/release-name": "r", "meta.helm.sh/release-namespace": "kek" },
    };
    return secret && { apiVersion: "v1", kind: "Secret", metadata, ...secret };
  }
  const groupVersion = path.replace(/^\/apis?\//, "");
  const kinds = KINDS[groupVersion];
  if (kinds === undefined) return undefined;
  const resources = Object.entries(kinds).map(([name, kind]) => ({ name, kind, namespaced: true, verbs: ["get"] }));
  return { kind: "APIResourceList", groupVersion, resources };
}
