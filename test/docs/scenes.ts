import { copyFileSync, writeFileSync } from "node:fs";
import { BINARY } from "../harness/program.ts";
import type { Stage } from "./stage.ts";

/** What the test does between the command lines of a page: what an operator does elsewhere, and what goes wrong. By the marks' names. */

export type Scene = (stage: Stage, host: string) => Promise<void>;

const FLEET = ["app-1", "app-2"];
const SECRETS = "/etc/certautopilot/secrets.env";
const DECLARED = "CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION";
const AUDIT = "CERTAUTOPILOT_AUDIT_SECRET";
const RECORDS_A_FIELD = 750;
/** A minute of a page is a few seconds here; long enough for a busy machine. */
const TIMES = { beatMs: 300, leaseMs: 4000, evictionMs: 5000, drainMs: 300 };
/** Typed on docs/hsm/softhsm2.md. */
const PIN = "31415926";

export const SCENES: Record<string, Scene> = {
  "the release files are in /root/release": async (stage, host) => await layRelease(stage, host, "1.4.0"),
  "db1 runs, and the release files are in /root/release": async (stage, host) => {
    // db1 is where both hosts of the fleet reach it: they are connected first.
    if (FLEET.includes(host)) await stage.host("app-2");
    await startMongod(stage, host);
    await stage.inside(host, "initiate", "db1:27017");
    await layRelease(stage, host, "1.4.0");
  },
  "the copy is fetched back": async (stage, host) => {
    await stage.sh(host, `install -m 0600 ${SECRETS} /root/copy.env`);
    // The page says that the process makes the new version known within seconds.
    for (let tries = 0; tries < 100; tries += 1) {
      const { stdout } = await (await stage.host(host)).run(["certautopilot", "kek", "status", "--json"]);
      const { versions = [] } = JSON.parse(stdout) as { versions?: unknown[] };
      const keys = (await (await stage.host(host)).run(["grep", "-c", "_KEK_V", "/root/copy.env"])).stdout;
      if (versions.length >= Number(keys)) return;
      await Bun.sleep(100);
    }
    throw new Error("a version of the copy does not become known");
  },
  "the secrets of app-1 are brought here": async (stage, host) => {
    await layRelease(stage, host, "1.4.0");
    await bring(stage, SECRETS, "/root/secrets.env");
  },
  records: async (stage) => {
    await quicken(stage, FLEET);
    const token = (await stage.host("app-1")).path("/etc/certautopilot/api.token");
    await stage.inside("app-1", "records", `${RECORDS_A_FIELD}`, token);
  },
  "kek-v2.env is brought here": async (stage) => await bring(stage, "/root/kek-v2.env", "/root/kek-v2.env"),
  "a host with certautopilot and no install": async (stage, host) => {
    copyFileSync(BINARY, (await stage.host(host)).path("/usr/local/bin/certautopilot"));
    await stage.sh(host, "mkdir /etc/certautopilot");
  },
  "a second later": async () => await Bun.sleep(1000),
  "3 s later": async () => await Bun.sleep(3000),
  "version 3 is given to all, and a slow rotation to it is in phase 2": async (stage) => {
    await giveVersion(stage, 3);
    await rotateSlowly(stage, 3);
  },
  "an install with its keys in a token": async (stage, host) => {
    await startMongod(stage, host);
    await stage.inside(host, "initiate", "db1:27017");
    await stage.sh(host, TOKEN_INSTALL);
    await quicken(stage, [host]);
  },
  steady: async (stage) => {
    for (const host of FLEET) await stage.sh(host, "systemctl is-active certautopilot");
  },
  "app-2 dies": async (stage) => {
    await stage.sh("app-2", "systemctl kill --signal=KILL certautopilot; systemctl stop certautopilot");
    await Bun.sleep(TIMES.leaseMs);
  },
  "version 4 is given to all, and app-2 has been silent long enough": async (stage) => {
    await giveVersion(stage, 4);
    await Bun.sleep(TIMES.evictionMs - TIMES.leaseMs);
  },
  "version 5 is given to all, and the command that rotates to it is killed in phase 2": async (stage) => {
    await giveVersion(stage, 5);
    await rotateSlowly(stage, 5);
    await stage.sh("app-1", "systemctl kill --signal=KILL rotate-5.service");
  },
  "app-1 has lost the active key": async (stage) => {
    await stage.sh("app-1", `cp -p ${SECRETS} /root/store.env; sed -i '/_KEK_V5=/d' ${SECRETS}`);
  },
  "the key is put back": async (stage) => {
    await stage.sh("app-1", `cat /root/store.env > ${SECRETS}; rm /root/store.env`);
  },
  "a backup is taken, the fleet rotates to version 6 and MongoDB is set back": async (stage) => {
    await stage.sh("app-1", `${KILL_MONGOD}; cp -a /srv/mongodb /srv/backup; systemctl start mongod`);
    // Nobody is silent for good here, and who only missed a heartbeat while MongoDB was unavailable has not looked for the key yet.
    await giveVersion(stage, 6, []);
    await stage.sh("app-1", "certautopilot kek rotate --to-version=6");
    for (const host of FLEET) await stage.sh(host, "systemctl stop certautopilot");
    await stage.sh("app-1", `${KILL_MONGOD}; rm -r /srv/mongodb; mv /srv/backup /srv/mongodb; systemctl start mongod`);
    await stage.sh("app-2", `systemctl start certautopilot; ${READY}`);
    await stage.inside("app-1", "keep");
  },
  "some records of before the rotation are put back": async (stage) => await stage.inside("app-1", "put back"),
  "a record is damaged, and version 7 is given to all": async (stage) => {
    await giveVersion(stage, 7);
    await stage.inside("app-1", "damage");
  },
  "the field is unset": async (stage) => await stage.inside("app-1", "unset"),
  "app-1 has another audit secret": async (stage) => {
    await stage.sh("app-1", `sed -i 's/^${AUDIT}=.*/${AUDIT}=${"0".repeat(64)}/' ${SECRETS}`);
  },
  "the audit secret is made again on every host, and the fleet is stopped": async (stage) => {
    for (const host of FLEET) {
      await stage.sh(
        host,
        `systemctl stop certautopilot; sed -i 's/^${AUDIT}=.*/${AUDIT}=${"1".repeat(64)}/' ${SECRETS}`,
      );
    }
  },
  "the fleet is started": async (stage) => {
    // Who has started it all looks that it is ready before going on.
    for (const host of FLEET) await stage.sh(host, `systemctl start certautopilot; ${READY}`);
  },
  "MongoDB is stopped": async (stage) => {
    await stage.sh("app-1", KILL_MONGOD);
  },
  "MongoDB is started": async (stage) => {
    await stage.sh("app-1", "systemctl start mongod");
    for (const host of FLEET) await stage.sh(host, `sed -i 's/^${DECLARED}=.*/${DECLARED}=6/' ${SECRETS}; ${READY}`);
  },
  "a release to update to": async (stage, host) => await layRelease(stage, host, "1.4.1"),
  "the release file is here": async (stage, host) => await layRelease(stage, host, "1.4.1"),
};

// ---------------------------------------------------------------------------------------------------------------------

/** Its journal makes a copy of what it leaves as good as a snapshot, and it takes its time to stop. */
const KILL_MONGOD = "systemctl kill --signal=KILL mongod; systemctl stop mongod";

const READY = "curl -sf --retry 100 --retry-delay 0 --retry-all-errors http://127.0.0.1:8181/readyz";

async function startMongod(stage: Stage, host: string): Promise<void> {
  const address = host.startsWith("app-") ? "0.0.0.0" : "127.0.0.1";
  await stage.sh(
    host,
    `mkdir -p /srv/mongodb
cat > /etc/systemd/system/mongod.service <<'EOF'
[Service]
ExecStart=/usr/bin/mongod --dbpath /srv/mongodb --replSet rs0 --bind_ip ${address} --port 27017 --wiredTigerCacheSizeGB 0.25
EOF
systemctl daemon-reload && systemctl start mongod`,
  );
}

async function layRelease(stage: Stage, host: string, version: string): Promise<void> {
  await stage.releases.lay(version, (await stage.host(host)).path("/"));
}

/** A file of app-1 that an operator brings to app-2. */
async function bring(stage: Stage, from: string, to: string): Promise<void> {
  const text = await stage.sh("app-1", `cat ${from}`);
  writeFileSync((await stage.host("app-2")).path(to), text, { mode: 0o600 });
}

/** The times of the tests, for every process and command of a fleet: a page about a minute's silence is not to take one. */
async function quicken(stage: Stage, hosts: string[]): Promise<void> {
  const { beatMs, leaseMs, evictionMs, drainMs } = TIMES;
  const times = `fleet: { beat_ms: ${beatMs}, lease_ms: ${leaseMs}, eviction_ms: ${evictionMs}, drain_ms: ${drainMs} }`;
  for (const host of hosts) {
    const script = `echo '${times}' >> /etc/certautopilot/config.yaml; systemctl restart certautopilot; ${READY}`;
    await stage.sh(host, script);
  }
}

/** A new version's key on every host, declared, loaded by every process, and in a verified backup. */
/** @param passed problems that need not end before this returns: a process that a page has killed is still in the roster. */
async function giveVersion(stage: Stage, version: number, passed = ["silent"]): Promise<void> {
  const key = await stage.sh("app-1", "openssl rand -hex 32");
  for (const host of FLEET) {
    const line = `CERTAUTOPILOT_ENCRYPTION_ENV_KEK_V${version}=${key.trim()}`;
    await stage.sh(host, `echo ${line} >> ${SECRETS}; sed -i 's/^${DECLARED}=.*/${DECLARED}=${version}/' ${SECRETS}`);
  }
  await ready(stage, version, passed);
  const copy = "/root/copy-of-all.env";
  const verify = `certautopilot kek verify --backup=${copy}`;
  await stage.sh("app-1", `install -m 0600 ${SECRETS} ${copy} && ${verify} && rm ${copy}`);
}

async function ready(stage: Stage, version: number, passed: string[]): Promise<void> {
  for (let tries = 0; tries < 100; tries += 1) {
    const host = await stage.host("app-1");
    const { stdout } = await host.run([
      "certautopilot",
      "kek",
      "verify",
      `--target=${version}`,
      "--no-backup-check",
      "--json",
    ]);
    const { problems } = JSON.parse(stdout) as { problems?: { code: string }[] };
    if (problems?.every(({ code }) => passed.includes(code)) === true) return;
    await Bun.sleep(100);
  }
  throw new Error(`the fleet does not become ready for version ${version}`);
}

async function rotateSlowly(stage: Stage, version: number): Promise<void> {
  const words = `kek rotate --to-version=${version} --max-rate=150 --batch-size=50`;
  await stage.sh("app-1", `systemd-run --quiet --unit=rotate-${version} /usr/local/bin/certautopilot ${words}`);
  await stage.inside("app-1", "phase 2");
}

const TOKEN_INSTALL = `
cat > /etc/certautopilot/config.yaml <<'EOF'
database: { uri: "mongodb://db1:27017/?replicaSet=rs0", name: certautopilot }
secrets_file: /etc/certautopilot/secrets.env
encryption:
  provider: pkcs11
  pkcs11:
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token_label: certautopilot
    pin_file: /etc/certautopilot/pin
EOF
(umask 077; echo ${PIN} > /etc/certautopilot/pin)
(umask 077; printf '${DECLARED}=1\\n${AUDIT}=%s\\n' "$(openssl rand -hex 32)" > ${SECRETS})
cp /etc/certautopilot/softhsm2.conf /etc/softhsm/softhsm2.conf
certautopilot kek pkcs11-init --version=1
cat > /etc/systemd/system/certautopilot.service <<'EOF'
[Service]
ExecStart=/usr/local/bin/certautopilot serve
EOF
systemctl daemon-reload && systemctl start certautopilot
`;
