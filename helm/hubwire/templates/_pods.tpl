{{/* What the pods of gateways, routers and control planes have in common. Called with `role` beside the root. */}}

{{- define "hubwire.env" -}}
- name: HUBWIRE_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: HUBWIRE_NATS_SERVERS, value: {{ include "hubwire.natsServers" . | quote }}}
- {name: HUBWIRE_DURABILITY, value: {{ include "hubwire.durability" . }}}
- {name: HUBWIRE_LOG_LEVEL, value: {{ .Values.logLevel }}}
- {name: HUBWIRE_LOG_FORMAT, value: {{ .Values.logFormat }}}
- {name: HUBWIRE_LEASE_SECONDS, value: {{ .Values.leaseSeconds | quote }}}
- {name: HUBWIRE_ADMIN_HOST, value: {{ .Values.listenHost | quote }}}
- name: HUBWIRE_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ include "hubwire.keysSecret" . }}, key: {{ .Values.accessKeys.primaryKey }}}}
- name: HUBWIRE_SECONDARY_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ include "hubwire.keysSecret" . }}, key: {{ .Values.accessKeys.secondaryKey }}}}
{{- if .Values.settings }}
- {name: HUBWIRE_CONFIG, value: /etc/hubwire/settings.yaml}
{{- end }}
{{- with .Values.nats }}
{{- if .enabled }}
{{- if .roleUsers }}
{{- /* The client of `helm test` reads keys, as a gateway does. */ -}}
{{- $role := ternary "gateway" $.role (eq $.role "test") }}
- {name: HUBWIRE_NATS_USER, value: hubwire-{{ $role }}}
- name: HUBWIRE_NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "hubwire.natsSecret" $ }}, key: {{ $role }}-password}}
{{- else }}
- name: HUBWIRE_NATS_USER
  valueFrom: {secretKeyRef: {name: {{ include "hubwire.natsSecret" $ }}, key: user}}
- name: HUBWIRE_NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "hubwire.natsSecret" $ }}, key: password}}
{{- end }}
{{- if .tls.enabled }}
- {name: HUBWIRE_NATS_TLS_CA, value: /etc/hubwire/nats-tls/ca.crt}
{{- end }}
{{- else }}
{{- with .external }}
{{- if eq .auth "password" }}
- name: HUBWIRE_NATS_USER
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: user}}
- name: HUBWIRE_NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: password}}
{{- else if eq .auth "token" }}
- name: HUBWIRE_NATS_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: token}}
{{- else if eq .auth "creds" }}
- {name: HUBWIRE_NATS_CREDS_FILE, value: /etc/hubwire/nats/creds}
{{- end }}
{{- if .tlsSecret }}
- {name: HUBWIRE_NATS_TLS_CA, value: /etc/hubwire/nats-tls/ca.crt}
{{- if .clientCertificate }}
- {name: HUBWIRE_NATS_TLS_CERT, value: /etc/hubwire/nats-tls/tls.crt}
- {name: HUBWIRE_NATS_TLS_KEY, value: /etc/hubwire/nats-tls/tls.key}
{{- end }}
{{- end }}
{{- if .tlsHostname }}
- {name: HUBWIRE_NATS_TLS_HOSTNAME, value: {{ .tlsHostname | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* For the roles that listen to clients. */}}
{{- define "hubwire.edgeEnv" -}}
- {name: HUBWIRE_HOST, value: {{ .Values.listenHost | quote }}}
- {name: HUBWIRE_PORT, value: "8080"}
{{- if .Values.tls.enabled }}
- {name: HUBWIRE_TLS_CERT, value: /etc/hubwire/tls/tls.crt}
- {name: HUBWIRE_TLS_KEY, value: /etc/hubwire/tls/tls.key}
{{- end }}
{{- with .Values.oidc }}
{{- range $variable, $given := dict "ISSUERS" .issuers "AUDIENCES" .audiences "OWNERS" .owners "READERS" .readers "ADMINS" .admins }}
{{- if $given }}
- {name: HUBWIRE_OIDC_{{ $variable }}, value: {{ join "," $given | quote }}}
{{- end }}
{{- end }}
{{- if .caSecret }}
- {name: HUBWIRE_OIDC_CA_FILE, value: /etc/hubwire/oidc/ca.crt}
{{- end }}
{{- end }}
{{- with include "hubwire.publicEndpoints" . }}
- {name: HUBWIRE_PUBLIC_ENDPOINTS, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "hubwire.volumes" -}}
{{- if .Values.settings }}
- {name: settings, configMap: {name: {{ include "hubwire.fullname" . }}-settings}}
{{- end }}
{{- if and .Values.nats.enabled .Values.nats.tls.enabled }}
# The servers' key is not theirs.
- {name: nats-tls, secret: {secretName: {{ include "hubwire.natsTlsSecret" . }}, items: [{key: ca.crt, path: ca.crt}]}}
{{- end }}
{{- if not .Values.nats.enabled }}
{{- with .Values.nats.external }}
{{- if eq .auth "creds" }}
- {name: nats, secret: {secretName: {{ .existingSecret }}}}
{{- end }}
{{- if .tlsSecret }}
- {name: nats-tls, secret: {secretName: {{ .tlsSecret }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "hubwire.volumeMounts" -}}
{{- if .Values.settings }}
- {name: settings, mountPath: /etc/hubwire/settings.yaml, subPath: settings.yaml, readOnly: true}
{{- end }}
{{- if and .Values.nats.enabled .Values.nats.tls.enabled }}
- {name: nats-tls, mountPath: /etc/hubwire/nats-tls, readOnly: true}
{{- end }}
{{- if not .Values.nats.enabled }}
{{- with .Values.nats.external }}
{{- if eq .auth "creds" }}
- {name: nats, mountPath: /etc/hubwire/nats, readOnly: true}
{{- end }}
{{- if .tlsSecret }}
- {name: nats-tls, mountPath: /etc/hubwire/nats-tls, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Three questions, three probes. Startup: has it served once? NATS may take a minute to be there. Liveness: does the
event loop turn? NATS being away is no reason to be killed. Readiness: may it get traffic?
*/}}
{{- define "hubwire.probes" -}}
startupProbe:
  httpGet: {path: /startupz, port: {{ .port }}}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* Metadata of a pod template. */}}
{{- define "hubwire.podMetadata" -}}
{{- $role := index .Values .role -}}
labels:
  {{- include "hubwire.selector" . | nindent 2 }}
  app.kubernetes.io/component: {{ .role }}
  {{- with $role.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # What a process reads only at its start: a change of it rolls the pods.
  checksum/settings: {{ .Values.settings | toJson | sha256sum }}
  {{- with $role.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Where pods go, who they are, and what they may: the part of a pod's spec that all roles, NATS too, share. */}}
{{- define "hubwire.podSpec" -}}
{{- $role := index .Values .role -}}
serviceAccountName: {{ include "hubwire.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $role.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
{{- if $role.affinity }}
  {{- toYaml $role.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "hubwire.selector" . | nindent 14 }}
              app.kubernetes.io/component: {{ .role }}
{{- end }}
topologySpreadConstraints:
{{- if $role.topologySpreadConstraints }}
  {{- toYaml $role.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "hubwire.selector" $ | nindent 8 }}
        app.kubernetes.io/component: {{ $.role }}
{{- end }}
{{- end }}
{{- end -}}
