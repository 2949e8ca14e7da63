{{/* Names, labels and images. */}}

{{- define "hubwire.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters: Services and pods put their role and number behind it. */}}
{{- define "hubwire.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "hubwire.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "hubwire.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "hubwire.selector" -}}
app.kubernetes.io/name: {{ include "hubwire.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hubwire.labels" -}}
{{ include "hubwire.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "hubwire.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "hubwire.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "hubwire.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "hubwire.keysSecret" -}}
{{- default (printf "%s-keys" (include "hubwire.fullname" .)) .Values.accessKeys.existingSecret -}}
{{- end -}}

{{- define "hubwire.natsSecret" -}}
{{- default (printf "%s-nats" (include "hubwire.fullname" .)) .Values.nats.existingSecret -}}
{{- end -}}

{{- define "hubwire.natsTlsSecret" -}}
{{- default (printf "%s-nats-tls" (include "hubwire.fullname" .)) .Values.nats.tls.existingSecret -}}
{{- end -}}

{{- define "hubwire.durability" -}}
{{- if .Values.durability -}}
{{- .Values.durability -}}
{{- else if or (not .Values.nats.enabled) (ge (int .Values.nats.replicas) 3) -}}
replicated
{{- else -}}
local
{{- end -}}
{{- end -}}

{{/* Each server by its own name, so that a client knows them all, also those that are away just now. */}}
{{- define "hubwire.natsServers" -}}
{{- if .Values.nats.enabled -}}
{{- $full := include "hubwire.fullname" . -}}
{{- $servers := list -}}
{{- range $n := until (int .Values.nats.replicas) -}}
{{- $servers = append $servers (printf "%s://%s-nats-%d.%s-nats-peers.%s.svc.%s:4222" (ternary "tls" "nats" $.Values.nats.tls.enabled) $full $n $full $.Release.Namespace $.Values.clusterDomain) -}}
{{- end -}}
{{- join "," $servers -}}
{{- else -}}
{{- join "," .Values.nats.external.servers -}}
{{- end -}}
{{- end -}}

{{- define "hubwire.publicEndpoints" -}}
{{- $found := .Values.publicEndpoints -}}
{{- if not $found -}}
{{- if .Values.ingress.enabled -}}
{{- $scheme := ternary "https" "http" (ne .Values.ingress.tlsSecret "") -}}
{{- range .Values.ingress.hosts }}{{ $found = append $found (printf "%s://%s" $scheme .) }}{{ end -}}
{{- end -}}
{{- if .Values.httpRoute.enabled -}}
{{- $scheme := ternary "https" "http" .Values.httpRoute.https -}}
{{- range .Values.httpRoute.hosts }}{{ $found = append $found (printf "%s://%s" $scheme .) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- join "," $found -}}
{{- end -}}

{{/*
How long Kubernetes waits for a pod to stop, from the same numbers as the processes (docs/operations.md,
"Stopping"): a gateway takes drainSeconds and 9 s at most, a control plane 7 s, a router 6 s; and some seconds
for a busy node.
*/}}
{{- define "hubwire.grace" -}}
{{- if eq .role "gateway" -}}
{{- add .Values.gateway.preStopSeconds .Values.gateway.drainSeconds 9 6 -}}
{{- else if eq .role "controlplane" -}}
{{- add .Values.controlplane.preStopSeconds 7 8 -}}
{{- else -}}
{{- add 6 9 -}}
{{- end -}}
{{- end -}}

{{/* How the Services are called. */}}
{{- define "hubwire.scheme" -}}
{{- ternary "https" "http" .Values.tls.enabled -}}
{{- end -}}

{{- define "hubwire.port" -}}
{{- .Values.service.port | default (ternary 443 80 .Values.tls.enabled) -}}
{{- end -}}

{{- define "hubwire.tlsSecret" -}}
{{- default (printf "%s-tls" (include "hubwire.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{/* Who serves REST. */}}
{{- define "hubwire.restService" -}}
{{- include "hubwire.fullname" . }}{{ if gt (int .Values.controlplane.replicas) 0 }}-rest{{ end }}
{{- end -}}
