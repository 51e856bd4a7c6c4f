import type { Systemd } from "./current_state.ts";
import { LAYOUT, MONGOD, USER } from "./layout.ts";

/** The systemd units, as text, for the systemd that a host has. Pure. `systemd-analyze security` gives them 2.0 or less. */

/** TemporaryFileSystem= came with it, and without that an HSM's library cannot be relied on to load. */
export const OLDEST_SYSTEMD = 238;

export interface ServiceUnit {
  /** Whether this host runs the install's mongod: it is started first. */
  localMongo: boolean;
  /** Of keys in a token: the directory that its module writes to, and the group that may. */
  token: { stateDirectory: string | undefined; group: string | undefined } | undefined;
}

/** Who a unit runs as, and by which systemd. */
export interface UnitHost {
  /** The primary group of the service's user. */
  group: string;
  systemd: Systemd;
}

export function serviceUnit({ localMongo, token }: ServiceUnit, host: UnitHost): string {
  const after = ["network-online.target", ...(localMongo ? [MONGOD] : [])].join(" ");
  const text = `# Written by "certautopilot install", each time it runs. For changes of your own: systemctl edit certautopilot.service
[Unit]
Description=certautopilot: seals secret fields in MongoDB, and follows each rotation of their KEK
Wants=${after}
After=${after}
# A try that waits for MongoDB takes 15 s, so it is made for ever; a process that dies at once is given up after 50.
StartLimitIntervalSec=10min
StartLimitBurst=50

[Service]
Type=exec
User=${USER}
Group=${host.group}
ExecStart=${LAYOUT.binary} serve --config=${LAYOUT.config}
Restart=on-failure
RestartSec=10s
# 2 configuration, 3 refused (wrong key bytes), 4 another provider${token === undefined ? "" : ", 8 the token (each start would try its PIN again)"}: no restart repairs them.
RestartPreventExitStatus=2 3 4${token === undefined ? "" : " 8"}
TimeoutStopSec=30s

StateDirectory=certautopilot
StateDirectoryMode=0750
RuntimeDirectory=certautopilot
RuntimeDirectoryMode=0750
# Private, as with PrivateTmp=; and the embedded pkcs11.node, unpacked here before it is loaded, may execute even where the
# host mounts /tmp noexec. Every systemd since 238 knows this directive.
TemporaryFileSystem=/tmp:mode=1777,exec,nosuid,nodev /var/tmp:mode=1777,nosuid,nodev
${tokenLines(token)}${hardening(["AF_INET", "AF_INET6", "AF_UNIX"])}ProcSubset=pid
# MemoryDenyWriteExecute= cannot be: the runtime compiles JavaScript to machine code.

[Install]
WantedBy=multi-user.target
`;
  return fitted(text, host.systemd);
}

export function mongodUnit(mongod: string, host: UnitHost): string {
  const text = `# Written by "certautopilot install", each time it runs. For changes of your own: systemctl edit ${MONGOD}
[Unit]
Description=MongoDB of certautopilot: a replica set of one member, on loopback only
After=network.target

[Service]
Type=exec
User=${USER}
Group=${host.group}
ExecStart=${mongod} --config ${LAYOUT.mongodConfig}
Restart=on-failure
RestartSec=5s
TimeoutStartSec=180s
TimeoutStopSec=120s
LimitNOFILE=64000
LimitNPROC=64000
TasksMax=infinity
# It locks the memory that holds passwords.
LimitMEMLOCK=infinity

StateDirectory=certautopilot/mongodb
StateDirectoryMode=0700
PrivateTmp=yes
IPAddressDeny=any
IPAddressAllow=localhost
${hardening(["AF_INET", "AF_UNIX", "AF_NETLINK"])}
[Install]
WantedBy=multi-user.target
`;
  return fitted(text, host.systemd);
}

/** Directives of the units that this systemd would ignore, so that they are left out. */
export function leftOut({ version = Number.POSITIVE_INFINITY }: Systemd): string[] {
  return Object.entries(SINCE)
    .filter(([, since]) => version < since)
    .map(([name]) => `${name}=`);
}

/** Why a process of the units cannot see a path of the host; undefined when the units hide it from nobody. */
export function hiddenByUnits(real: string): string | undefined {
  if (/^\/(root|home|run\/user)(\/|$)/.test(real)) return "is in a home directory, which the units hide (ProtectHome=)";
  if (/^\/(tmp|var\/tmp)(\/|$)/.test(real)) return "is in a temporary directory, and the units have private ones";
  return undefined;
}

/** What `--pkcs11-state` named when a unit was made. */
export function stateDirectoryIn(unit: string | undefined): string | undefined {
  return /^ReadWritePaths=(.+)$/m.exec(unit ?? "")?.[1];
}

/** The mongod that a unit starts. */
export function mongodIn(unit: string | undefined): string | undefined {
  return /^ExecStart=(\S+) --config /m.exec(unit ?? "")?.[1];
}

// ---------------------------------------------------------------------------------------------------------------------

/** The systemd that each directive came with (its NEWS file). Those that are not named are older than OLDEST_SYSTEMD. */
const SINCE: Record<string, number> = {
  ProtectProc: 247,
  ProcSubset: 247,
  ProtectClock: 245,
  ProtectKernelLogs: 244,
  ProtectHostname: 242,
  RestrictSUIDSGID: 242,
};
const TYPE_EXEC_SINCE = 240;

function fitted(unit: string, systemd: Systemd): string {
  const { version = Number.POSITIVE_INFINITY, userNamespaces } = systemd;
  const ignored = [...leftOut(systemd), ...(userNamespaces ? [] : ["PrivateUsers="])];
  const lines = unit.split("\n").filter((line) => !ignored.some((directive) => line.startsWith(directive)));
  // Simple= reports a program that cannot be executed a moment later, as a unit that ended.
  return lines.map((line) => (line === "Type=exec" && version < TYPE_EXEC_SINCE ? "Type=simple" : line)).join("\n");
}

function tokenLines(token: ServiceUnit["token"]): string {
  if (token === undefined) return "";
  const { stateDirectory, group } = token;
  return [
    "# A token on the USB or PCI bus needs its device: PrivateDevices=no and DeviceAllow= in a drop-in of your own.",
    ...(stateDirectory === undefined ? [] : [`ReadWritePaths=${stateDirectory}`]),
    ...(group === undefined ? [] : [`SupplementaryGroups=${group}`]),
    "",
  ].join("\n");
}

/** What neither process ever needs, taken away. */
function hardening(families: string[]): string {
  return `UMask=0077
# A core dump would hold keys.
LimitCORE=0
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateUsers=yes
ProtectHostname=yes
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=${families.join(" ")}
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
`;
}
