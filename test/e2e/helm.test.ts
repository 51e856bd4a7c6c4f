import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CHART, HELM, helm, type Manifest, only, render, type Values } from "../harness/chart.ts";
import { type KubernetesApi, kubernetesApi } from "../harness/kubernetes_api.ts";
import { scratchDirectory } from "../harness/scratch.ts";

/** The chart: what it renders, what it refuses, and that Kubernetes' own schemas take it. */

const scratch = scratchDirectory();
const ENV: Values = { secrets: { existingSecret: "kek" } };
const PKCS11: Values = {
  secrets: {
    existingSecret: "kek",
    encryption: {
      provider: "pkcs11",
      currentVersion: 1,
      pkcs11: { modulePath: "/opt/hsm/lib.so", tokenLabel: "prod", pinSecret: { name: "hsm-pin" }, sessions: 8 },
    },
  },
  mongodb: { existingSecret: "mongo" },
  extraVolumes: [{ name: "hsm", emptyDir: {} }],
  extraVolumeMounts: [{ name: "hsm", mountPath: "/opt/hsm", readOnly: true }],
  initContainers: [{ name: "hsm", image: "vendor/hsm-client:1", command: ["cp", "-r", "/lib/.", "/opt/hsm"] }],
};
/** Whatever can be turned on. */
const FULL: Values = {
  ...PKCS11,
  imagePullSecrets: [{ name: "pull" }],
  fields: ["users:totp_seed", "users:codes.0"],
  server: { hosts: ["kek.example.com"], tlsSecret: "tls" },
  api: { tokenSecret: "api" },
  audit: { stdout: true, syslog: "tls://siem.example.com" },
  rotate: {
    job: { enabled: true, toVersion: 2, fromVersion: 1 },
    cronJob: { enabled: true, timeZone: "Europe/Berlin" },
    extraArgs: ["--max-rate=500"],
  },
  networkPolicy: { from: [{ namespaceSelector: { matchLabels: { name: "monitoring" } } }] },
  serviceAccount: { annotations: { a: "b" } },
  podAnnotations: { a: "b" },
  podLabels: { team: "x" },
  nodeSelector: { disk: "ssd" },
  tolerations: [{ key: "hsm", operator: "Exists" }],
  affinity: { nodeAffinity: {} },
  priorityClassName: "high",
  extraEnv: [{ name: "VENDOR", value: "1" }],
};

const podOf = (manifest: Manifest): Manifest =>
  (manifest.spec.jobTemplate?.spec ?? manifest.spec).template.spec as Manifest;
/** Every variable with its value, or where it comes from. */
const envOf = (manifest: Manifest): Record<string, unknown> =>
  Object.fromEntries(
    podOf(manifest).containers[0].env.map((one: Manifest) => [one.name, one.value ?? one.valueFrom.secretKeyRef]),
  );

describe.skipIf(HELM === undefined)("the chart", () => {
  test("has nothing for helm lint to say, with either provider", async () => {
    for (const values of [ENV, PKCS11, FULL]) {
      const { code, stdout, stderr } = await helm(["lint", "--strict", CHART], values);
      expect(stdout + stderr).toContain("0 chart(s) failed");
      expect(code).toBe(0);
    }
  });

  test("takes its version from the release", async () => {
    const { version } = await import("../../package.json");
    expect(readFileSync(join(CHART, "Chart.yaml"), "utf8")).toContain(`appVersion: "${version}"`);
  });

  test("with keys in a Secret: a fleet of hardened pods with probes", async () => {
    const manifests = await render(ENV);
    expect(manifests.map(({ kind }) => kind).sort()).toEqual([
      "Deployment",
      "NetworkPolicy",
      "PodDisruptionBudget",
      "Service",
      "ServiceAccount",
    ]);
    const deployment = only(manifests, "Deployment");
    expect(deployment.spec).toMatchObject({
      replicas: 2,
      strategy: { type: "RollingUpdate", rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
    });
    const pod = podOf(deployment);
    expect(pod).toMatchObject({
      serviceAccountName: "r-certautopilot",
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      terminationGracePeriodSeconds: 60,
      securityContext: {
        runAsNonRoot: true,
        runAsUser: 65532,
        runAsGroup: 65532,
        fsGroup: 65532,
        seccompProfile: { type: "RuntimeDefault" },
      },
    });
    // 288 is 0440.
    expect(pod.volumes).toEqual([
      {
        name: "secrets",
        secret: { secretName: "kek", defaultMode: 288, items: [{ key: "secrets.env", path: "secrets.env" }] },
      },
      { name: "tmp", emptyDir: { sizeLimit: "64Mi" } },
    ]);
    const [container] = pod.containers;
    expect(container).toMatchObject({
      image: "certautopilot:1.4.0",
      command: ["certautopilot", "serve", "--role=api"],
      securityContext: {
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ["ALL"] },
      },
      volumeMounts: [
        { name: "secrets", mountPath: "/etc/certautopilot/secrets", readOnly: true },
        { name: "tmp", mountPath: "/tmp" },
      ],
      startupProbe: { httpGet: { path: "/healthz", port: "http", scheme: "HTTP" } },
      livenessProbe: { httpGet: { path: "/healthz" } },
      readinessProbe: { httpGet: { path: "/readyz" } },
    });
    expect(container.resources.limits.memory).toBe("768Mi");
    expect(envOf(deployment)).toEqual({
      CERTAUTOPILOT_SECRETS_FILE: "/etc/certautopilot/secrets/secrets.env",
      CERTAUTOPILOT_DATABASE_NAME: "certautopilot",
      CERTAUTOPILOT_ENCRYPTION_PROVIDER: "env",
      CERTAUTOPILOT_ENCRYPTION_ROTATION_PERIOD: "365d",
      CERTAUTOPILOT_SERVER_LISTEN: "0.0.0.0:8181",
      CERTAUTOPILOT_SERVER_HOSTS:
        "r-certautopilot,r-certautopilot.kek,r-certautopilot.kek.svc,r-certautopilot.kek.svc.cluster.local",
      CERTAUTOPILOT_AUDIT_FILE: "-",
      CERTAUTOPILOT_FLEET_BEAT_MS: "5000",
      CERTAUTOPILOT_FLEET_LEASE_MS: "30000",
      CERTAUTOPILOT_FLEET_EVICTION_MS: "60000",
      CERTAUTOPILOT_FLEET_DRAIN_MS: "5000",
      BUN_TMPDIR: "/tmp",
    });
    expect(only(manifests, "ServiceAccount").automountServiceAccountToken).toBe(false);
    expect(only(manifests, "PodDisruptionBudget").spec.maxUnavailable).toBe(1);
    const selected = only(manifests, "Service").spec.selector;
    expect(deployment.spec.template.metadata.labels).toMatchObject(selected);
    // Nobody is let in until somebody is named, and no Job's pod is a backend.
    expect(only(manifests, "NetworkPolicy").spec).toMatchObject({ policyTypes: ["Ingress"], ingress: [] });
    expect(selected["app.kubernetes.io/component"]).toBe("serve");
  });

  test("with keys in an HSM: the module, the PIN as a file, and the key made before the pods", async () => {
    const manifests = await render(PKCS11);
    const deployment = only(manifests, "Deployment");
    expect(envOf(deployment)).toMatchObject({
      CERTAUTOPILOT_DATABASE_URI: { name: "mongo", key: "uri" },
      CERTAUTOPILOT_ENCRYPTION_PROVIDER: "pkcs11",
      CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION: "1",
      CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH: "/opt/hsm/lib.so",
      CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL: "prod",
      CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN_FILE: "/etc/certautopilot/pin/pin",
      CERTAUTOPILOT_ENCRYPTION_PKCS11_SESSIONS: "8",
      CERTAUTOPILOT_ENCRYPTION_PKCS11_USE_GCM_IV_FROM_HSM: "false",
    });
    const init = only(manifests, "Job");
    expect(init.metadata.annotations["helm.sh/hook"]).toBe("pre-install,pre-upgrade");
    const pod = podOf(init);
    expect(pod.containers[0].command).toEqual(["certautopilot", "kek", "pkcs11-init", "--version=1"]);
    // A hook runs before the release's ServiceAccount is made.
    expect(pod.serviceAccountName).toBe("default");
    for (const each of [pod, podOf(deployment)]) {
      expect(each.initContainers[0].image).toBe("vendor/hsm-client:1");
      expect(each.volumes.map(({ name }: Manifest) => name)).toEqual(["secrets", "tmp", "pin", "hsm"]);
      expect(each.volumes[2].secret).toMatchObject({ secretName: "hsm-pin", defaultMode: 288 });
      expect(each.containers[0].volumeMounts).toContainEqual({ name: "hsm", mountPath: "/opt/hsm", readOnly: true });
    }
  });

  test("a rotation as a Job, and as a CronJob; what somebody must look at first is not tried again", async () => {
    const manifests = await render({
      ...ENV,
      rotate: { job: { enabled: true, toVersion: 2 }, cronJob: { enabled: true }, extraArgs: ["--require-backup"] },
    });
    const [job, cronJob] = [only(manifests, "Job"), only(manifests, "CronJob")];
    expect(job.metadata.name).toBe("r-certautopilot-rotate-to-2");
    const rotate = ["certautopilot", "kek", "rotate", "--to-version=2", "--yes", "--require-backup"];
    expect(podOf(job).containers[0].command).toEqual(rotate);
    expect(podOf(cronJob).containers[0].command).toEqual(["certautopilot-rotate", "--require-backup"]);
    expect(cronJob.spec).toMatchObject({ schedule: "0 3 * * 6", concurrencyPolicy: "Forbid", suspend: false });
    for (const { backoffLimit, podFailurePolicy } of [job.spec, cronJob.spec.jobTemplate.spec]) {
      expect(backoffLimit).toBe(3);
      expect(podFailurePolicy.rules).toEqual([
        { action: "Ignore", onPodConditions: [{ type: "DisruptionTarget", status: "True" }] },
        { action: "FailJob", onExitCodes: { containerName: "rotate", operator: "In", values: [2, 3, 4, 5, 6, 8] } },
      ]);
    }
    const serve = podOf(only(manifests, "Deployment"));
    for (const each of [podOf(job), podOf(cronJob)]) {
      expect(each.restartPolicy).toBe("Never");
      expect(each.securityContext).toEqual(serve.securityContext);
      expect(each.containers[0].env).toEqual(serve.containers[0].env);
    }
  });

  test("whatever is turned on, Kubernetes' schemas take it, the oldest and the newest", async () => {
    const files = [ENV, PKCS11, FULL].map((_, index) => join(scratch, `${index}.yaml`));
    for (const [index, values] of [ENV, PKCS11, FULL].entries()) {
      const { stdout } = await helm(["template", "r", CHART, "--kube-version=1.35.0"], values);
      writeFileSync(files[index] as string, stdout);
    }
    const validate = process.env["CERTAUTOPILOT_TEST_KUBERNETES_VALIDATE"] ?? "";
    for (const version of ["1.31.0", "1.37.0"]) {
      const checked = spawnSync(validate, ["--strict", "-k", version, ...files], { encoding: "utf8" });
      expect(checked.stdout + checked.stderr).not.toContain("ERROR");
      expect((checked.stdout + checked.stderr).match(/passed for resource/g)).toHaveLength(5 + 6 + 8);
      expect(checked.status).toBe(0);
    }
    expect((await helm(["template", "r", CHART, "--kube-version=1.30.0"], ENV)).stderr).toContain("kubeVersion");
  });

  test("TLS: probes, certificate and API follow", async () => {
    const deployment = only(await render(FULL), "Deployment");
    expect(podOf(deployment).containers[0].readinessProbe.httpGet.scheme).toBe("HTTPS");
    expect(envOf(deployment)).toMatchObject({
      CERTAUTOPILOT_SERVER_TLS_KEY_FILE: "/etc/certautopilot/tls/tls.key",
      CERTAUTOPILOT_API_TOKEN_FILE: "/etc/certautopilot/api/token",
      CERTAUTOPILOT_AUDIT_SYSLOG: "tls://siem.example.com",
      CERTAUTOPILOT_FIELDS: "users:totp_seed,users:codes.0",
      VENDOR: "1",
    });
    expect(envOf(deployment)["CERTAUTOPILOT_SERVER_HOSTS"]).toEndWith(",kek.example.com");
  });

  const secrets = (over: Values) => ({ secrets: { existingSecret: "kek", ...over } });
  const pkcs11 = (over: Values) =>
    secrets({
      encryption: { provider: "pkcs11", currentVersion: 1, pkcs11: { modulePath: "/m.so", tokenLabel: "t", ...over } },
    });
  test.each([
    ["an unknown key", { ...ENV, replica: 3 }, /replica/],
    ["an unknown key within", secrets({ encryption: { provder: "env" } }), /provder/],
    ["a PIN among the values", pkcs11({ pin: "1234" }), /pin/],
    ["a number as text", { ...ENV, replicas: "2" }, /replicas/],
    ["no replica", { ...ENV, replicas: 0 }, /replicas/],
    ["another provider", secrets({ encryption: { provider: "vault" } }), /provider/],
    ["version 0", secrets({ encryption: { currentVersion: 0 } }), /currentVersion/],
    ["a relative module", pkcs11({ modulePath: "lib.so" }), /modulePath/],
    ["a syslog without a transport", { ...ENV, audit: { syslog: "siem:514" } }, /syslog/],
    ["root", { ...ENV, podSecurityContext: { runAsUser: 0, runAsGroup: 1, fsGroup: 1 } }, /runAsUser/],
    ["a flag that is none", { ...ENV, rotate: { extraArgs: ["; rm"] } }, /extraArgs/],
    ["no secrets at all", {}, /no secrets: name a Secret/],
    ["two kinds of secrets", secrets({ create: true }), /choose one/],
    [
      "keys of the chart in an HSM",
      { secrets: { create: true, encryption: { provider: "pkcs11" } } },
      /is for the provider env/,
    ],
    ["keys of the chart and no database", { secrets: { create: true } }, /mongodb\.existingSecret is needed/],
    ["an HSM without its library", pkcs11({ modulePath: "" }), /modulePath is needed/],
    ["an HSM without its token", pkcs11({ tokenLabel: "" }), /tokenLabel is needed/],
    [
      "an HSM whose first version is not said",
      {
        ...PKCS11,
        secrets: {
          ...(PKCS11["secrets"] as Values),
          encryption: { ...((PKCS11["secrets"] as Values)["encryption"] as Values), currentVersion: null },
        },
      },
      /currentVersion is needed/,
    ],
    ["an API without TLS", { ...ENV, api: { tokenSecret: "t" } }, /needs server\.tlsSecret/],
    ["fleet times that are unsafe", { ...ENV, fleet: { leaseMs: 9000 } }, /must hold/],
    ["an end before the drain", { ...ENV, fleet: { drainMs: 50_000 } }, /terminationGracePeriodSeconds/],
    ["a group that is not the files'", { ...ENV, podSecurityContext: { fsGroup: 1 } }, /must be the same/],
    ["a rotation to nowhere", { ...ENV, rotate: { job: { enabled: true } } }, /toVersion is needed/],
  ] as [string, Values, RegExp][])("%s is refused", async (_name, values, message) => {
    const { code, stderr, stdout } = await helm(["template", "r", CHART, "--kube-version=1.35.0"], values);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(message);
    expect(stdout).toBe("");
  });
});

describe.skipIf(HELM === undefined)("a Secret made by the chart", () => {
  const CREATE: Values = { secrets: { create: true }, mongodb: { existingSecret: "mongo" } };
  let cluster: KubernetesApi;
  beforeAll(async () => {
    cluster = await kubernetesApi();
  });
  afterAll(async () => await cluster.stop());
  const inCluster = () => ["--dry-run=server", "--disable-openapi-validation", `--kube-apiserver=${cluster.url}`];
  const text = (secret: Manifest): string => Buffer.from(secret.data["secrets.env"], "base64").toString();

  test("holds fresh keys on an installation, and stays when the release goes", async () => {
    cluster.secret = undefined;
    const made = only(await render(CREATE, inCluster()), "Secret");
    expect(made.metadata).toMatchObject({
      name: "r-certautopilot-secrets",
      annotations: { "helm.sh/resource-policy": "keep" },
    });
    expect(text(made)).toMatch(
      /^CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V1=[0-9a-f]{64}\nCERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION=1\nCERTAUTOPILOT_AUDIT_SECRET=[0-9a-f]{64}\n$/,
    );
    expect(text(only(await render(CREATE, inCluster()), "Secret"))).not.toBe(text(made));
  });

  test("is left as it is from then on, by an upgrade and by a new installation", async () => {
    const data = {
      "secrets.env": Buffer.from("CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V7=x\n").toString("base64"),
      other: "eA==",
    };
    cluster.secret = { data };
    for (const more of [[], ["--is-upgrade"]])
      expect(only(await render(CREATE, [...inCluster(), ...more]), "Secret").data).toEqual(data);
  });

  test("is never made in place of a lost one, nor without a look at the cluster", async () => {
    cluster.secret = undefined;
    await expect(render(CREATE, [...inCluster(), "--is-upgrade"])).rejects.toThrow(
      "no new keys are made in place of lost",
    );
    await expect(render(CREATE)).rejects.toThrow("secrets.create needs a cluster to look at");
  });
});
