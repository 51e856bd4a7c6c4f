{{- define "certautopilot.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "certautopilot.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "certautopilot.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "certautopilot.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "certautopilot.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "certautopilot.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "certautopilot.secretName" -}}
{{- default (printf "%s-secrets" (include "certautopilot.fullname" .)) .Values.secrets.existingSecret -}}
{{- end -}}

{{- /* What values.schema.json cannot say: settings that do not go together. */ -}}
{{- define "certautopilot.check" -}}
{{- $encryption := .Values.secrets.encryption -}}
{{- if and .Values.secrets.create .Values.secrets.existingSecret -}}
{{- fail "secrets.create and secrets.existingSecret are both set: choose one" -}}
{{- end -}}
{{- if not (or .Values.secrets.create .Values.secrets.existingSecret) -}}
{{- fail "no secrets: name a Secret with a secrets file in secrets.existingSecret (README.md), or set secrets.create=true" -}}
{{- end -}}
{{- if eq $encryption.provider "pkcs11" -}}
{{- if .Values.secrets.create -}}
{{- fail "secrets.create is for the provider env: with pkcs11 name a Secret in secrets.existingSecret, its key is needed before the release is laid down" -}}
{{- end -}}
{{- $_ := required "secrets.encryption.pkcs11.modulePath is needed with the provider pkcs11: the vendor's library in the container" $encryption.pkcs11.modulePath -}}
{{- $_ := required "secrets.encryption.pkcs11.tokenLabel is needed with the provider pkcs11" $encryption.pkcs11.tokenLabel -}}
{{- if and $encryption.pkcs11.init (not $encryption.currentVersion) -}}
{{- fail "secrets.encryption.currentVersion is needed with secrets.encryption.pkcs11.init: the version whose key is made" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.secrets.create (not .Values.mongodb.existingSecret) -}}
{{- fail "mongodb.existingSecret is needed with secrets.create: the Secret that holds the replica set's URI" -}}
{{- end -}}
{{- if and .Values.api.tokenSecret (not .Values.server.tlsSecret) -}}
{{- fail "api.tokenSecret needs server.tlsSecret: plaintexts pass the API, and pods are reached over the network" -}}
{{- end -}}
{{- $fleet := .Values.fleet -}}
{{- if not (and (lt (int (mul 2 $fleet.beatMs)) (int $fleet.leaseMs)) (lt (int $fleet.leaseMs) (int $fleet.evictionMs))) -}}
{{- fail "fleet: twice beatMs < leaseMs < evictionMs must hold" -}}
{{- end -}}
{{- if le (int .Values.terminationGracePeriodSeconds) (int (add 15 (div $fleet.drainMs 1000))) -}}
{{- fail "terminationGracePeriodSeconds must be more than fleet.drainMs and 15 s to leave the fleet" -}}
{{- end -}}
{{- if ne (int .Values.podSecurityContext.runAsGroup) (int .Values.podSecurityContext.fsGroup) -}}
{{- fail "podSecurityContext: runAsGroup and fsGroup must be the same, else the secrets file is refused" -}}
{{- end -}}
{{- end -}}

{{- define "certautopilot.env" -}}
{{- $encryption := .Values.secrets.encryption -}}
{{- $name := include "certautopilot.fullname" . -}}
{{- $hosts := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.cluster.local" $name .Release.Namespace) -}}
- { name: CERTAUTOPILOT_SECRETS_FILE, value: /etc/certautopilot/secrets/secrets.env }
- { name: CERTAUTOPILOT_DATABASE_NAME, value: {{ .Values.mongodb.database | quote }} }
{{- with .Values.mongodb.existingSecret }}
- name: CERTAUTOPILOT_DATABASE_URI
  valueFrom: { secretKeyRef: { name: {{ . }}, key: {{ $.Values.mongodb.key }} } }
{{- end }}
- { name: CERTAUTOPILOT_ENCRYPTION_PROVIDER, value: {{ $encryption.provider }} }
{{- with $encryption.currentVersion }}
- { name: CERTAUTOPILOT_ENCRYPTION_CURRENT_VERSION, value: {{ int . | quote }} }
{{- end }}
- { name: CERTAUTOPILOT_ENCRYPTION_ROTATION_PERIOD, value: {{ $encryption.rotationPeriod | quote }} }
{{- if eq $encryption.provider "pkcs11" }}
- { name: CERTAUTOPILOT_ENCRYPTION_PKCS11_MODULE_PATH, value: {{ $encryption.pkcs11.modulePath | quote }} }
- { name: CERTAUTOPILOT_ENCRYPTION_PKCS11_TOKEN_LABEL, value: {{ $encryption.pkcs11.tokenLabel | quote }} }
{{- if $encryption.pkcs11.pinSecret.name }}
- { name: CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN_FILE, value: /etc/certautopilot/pin/pin }
{{- end }}
{{- with $encryption.pkcs11.sessions }}
- { name: CERTAUTOPILOT_ENCRYPTION_PKCS11_SESSIONS, value: {{ int . | quote }} }
{{- end }}
- { name: CERTAUTOPILOT_ENCRYPTION_PKCS11_USE_GCM_IV_FROM_HSM, value: {{ $encryption.pkcs11.useGcmIvFromHsm | quote }} }
{{- end }}
- { name: CERTAUTOPILOT_SERVER_LISTEN, value: "0.0.0.0:{{ int .Values.server.port }}" }
- { name: CERTAUTOPILOT_SERVER_HOSTS, value: {{ concat $hosts .Values.server.hosts | join "," | quote }} }
{{- if .Values.server.tlsSecret }}
- { name: CERTAUTOPILOT_SERVER_TLS_CERT_FILE, value: /etc/certautopilot/tls/tls.crt }
- { name: CERTAUTOPILOT_SERVER_TLS_KEY_FILE, value: /etc/certautopilot/tls/tls.key }
{{- end }}
{{- if .Values.api.tokenSecret }}
- { name: CERTAUTOPILOT_API_TOKEN_FILE, value: /etc/certautopilot/api/token }
{{- end }}
{{- if .Values.audit.stdout }}
- { name: CERTAUTOPILOT_AUDIT_FILE, value: "-" }
{{- end }}
{{- with .Values.audit.syslog }}
- { name: CERTAUTOPILOT_AUDIT_SYSLOG, value: {{ . | quote }} }
{{- end }}
{{- with .Values.fields }}
- { name: CERTAUTOPILOT_FIELDS, value: {{ join "," . | quote }} }
{{- end }}
- { name: CERTAUTOPILOT_FLEET_BEAT_MS, value: {{ int .Values.fleet.beatMs | quote }} }
- { name: CERTAUTOPILOT_FLEET_LEASE_MS, value: {{ int .Values.fleet.leaseMs | quote }} }
- { name: CERTAUTOPILOT_FLEET_EVICTION_MS, value: {{ int .Values.fleet.evictionMs | quote }} }
- { name: CERTAUTOPILOT_FLEET_DRAIN_MS, value: {{ int .Values.fleet.drainMs | quote }} }
# The binary unpacks its PKCS#11 addon here.
- { name: BUN_TMPDIR, value: /tmp }
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "certautopilot.mounts" -}}
- { name: secrets, mountPath: /etc/certautopilot/secrets, readOnly: true }
- { name: tmp, mountPath: /tmp }
{{- if and (eq .Values.secrets.encryption.provider "pkcs11") .Values.secrets.encryption.pkcs11.pinSecret.name }}
- { name: pin, mountPath: /etc/certautopilot/pin, readOnly: true }
{{- end }}
{{- if .Values.server.tlsSecret }}
- { name: tls, mountPath: /etc/certautopilot/tls, readOnly: true }
{{- end }}
{{- if .Values.api.tokenSecret }}
- { name: api, mountPath: /etc/certautopilot/api, readOnly: true }
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Root's, of the pod's own group, 0440 (288, which every YAML reads alike): what `certautopilot` takes for private. Whole directories, so that changes arrive. */ -}}
{{- define "certautopilot.volumes" -}}
{{- $pkcs11 := .Values.secrets.encryption.pkcs11 -}}
- name: secrets
  secret: { secretName: {{ include "certautopilot.secretName" . }}, defaultMode: 288, items: [{ key: {{ .Values.secrets.key }}, path: secrets.env }] }
- name: tmp
  emptyDir: { sizeLimit: 64Mi }
{{- if and (eq .Values.secrets.encryption.provider "pkcs11") $pkcs11.pinSecret.name }}
- name: pin
  secret: { secretName: {{ $pkcs11.pinSecret.name }}, defaultMode: 288, items: [{ key: {{ $pkcs11.pinSecret.key }}, path: pin }] }
{{- end }}
{{- with .Values.server.tlsSecret }}
- name: tls
  secret: { secretName: {{ . }}, defaultMode: 288 }
{{- end }}
{{- with .Values.api.tokenSecret }}
- name: api
  secret: { secretName: {{ . }}, defaultMode: 288, items: [{ key: {{ $.Values.api.tokenKey }}, path: token }] }
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* What every pod of this chart is; its containers are the caller's. */ -}}
{{- define "certautopilot.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  seccompProfile: { type: RuntimeDefault }
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.initContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  {{- include "certautopilot.volumes" . | nindent 2 }}
{{- end -}}

{{- define "certautopilot.container" -}}
image: "{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
env:
  {{- include "certautopilot.env" . | nindent 2 }}
volumeMounts:
  {{- include "certautopilot.mounts" . | nindent 2 }}
{{- end -}}

{{- /*
A run of one command to its end. Tried again is only what can be gone on with (7 the fleet, 9 MongoDB, 1, or killed); 2 to 6 and 8 say what
somebody must look at first: settings, refused, lock, cancelled on purpose, records, the HSM, whose PIN must not be tried again and again.
*/ -}}
{{- define "certautopilot.run" -}}
backoffLimit: {{ int .root.Values.rotate.backoffLimit }}
podFailurePolicy:
  rules:
    # A node that is drained: the next pod continues, and it counts as no failure.
    - action: Ignore
      onPodConditions: [{ type: DisruptionTarget, status: "True" }]
    - action: FailJob
      onExitCodes: { containerName: {{ .name }}, operator: In, values: [2, 3, 4, 5, 6, 8] }
template:
  metadata:
    labels:
      {{- include "certautopilot.labels" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .name }}
      {{- with .root.Values.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    annotations:
      # A run that is moved is a rotation that is cancelled.
      cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
      {{- with .root.Values.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    restartPolicy: Never
    terminationGracePeriodSeconds: {{ int .root.Values.terminationGracePeriodSeconds }}
    serviceAccountName: {{ .serviceAccount }}
    {{- include "certautopilot.pod" .root | nindent 4 }}
    containers:
      - name: {{ .name }}
        command: {{ toJson .command }}
        {{- include "certautopilot.container" .root | nindent 8 }}
        resources:
          {{- toYaml .root.Values.rotate.resources | nindent 10 }}
{{- end -}}
