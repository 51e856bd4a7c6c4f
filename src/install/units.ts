import { LAYOUT, MONGOD, USER } from "./layout.ts";

/** The systemd units, as text. Pure. `systemd-analyze security` gives them 2.0 or less. */

export interface ServiceUnit {
  /** Whether this host runs the install's mongod: it is started first. */
  localMongo: boolean;
  /** Of keys in a token: the directory that its module writes to, and the group that may. */
  token: { stateDirectory: string | undefined; group: string | undefined } | undefined;
}

export function serviceUnit({ localMongo, token }: ServiceUnit): string {
  const after = ["network-online.target", ...(localMongo ? [MONGOD] : [])].join(" ");
  return `# Laid down by "certautopilot install", which writes it anew. Changes of your own: systemctl edit certautopilot.service
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
Group=${USER}
ExecStart=${LAYOUT.binary} serve --config=${LAYOUT.config}
Restart=on-failure
RestartSec=10s
# 2 configuration, 3 refused (wrong key bytes), 4 another provider${token === undefined ? "" : ", 8 the token (each start would try its PIN again)"}: no restart mends them.
RestartPreventExitStatus=2 3 4${token === undefined ? "" : " 8"}
TimeoutStopSec=30s

StateDirectory=certautopilot
StateDirectoryMode=0750
RuntimeDirectory=certautopilot
RuntimeDirectoryMode=0750
# The embedded pkcs11.node is unpacked here before it is loaded: private, and executable whatever the host's /tmp is.
PrivateTmp=yes
ExecPaths=/tmp
${tokenLines(token)}${hardening(["AF_INET", "AF_INET6", "AF_UNIX"])}ProcSubset=pid
# MemoryDenyWriteExecute= cannot be: the runtime compiles JavaScript to machine code.

[Install]
WantedBy=multi-user.target
`;
}

export function mongodUnit(mongod: string): string {
  return `# Laid down by "certautopilot install", which writes it anew. Changes of your own: systemctl edit ${MONGOD}
[Unit]
Description=MongoDB of certautopilot: a replica set of one member, on loopback only
After=network.target

[Service]
Type=exec
User=${USER}
Group=${USER}
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
