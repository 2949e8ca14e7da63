{{/* The configuration of the servers: an account for this installation alone, with a user for its processes. */}}
{{- define "hubwire.natsConfig" -}}
{{- $full := include "hubwire.fullname" . -}}
server_name: $POD_NAME
listen: "{{ ternary "[::]" .Values.listenHost (eq .Values.listenHost "::") }}:4222"
http: "{{ ternary "[::]" .Values.listenHost (eq .Values.listenHost "::") }}:8222"
pid_file: "/run/nats/nats.pid"
# A message has 1 MiB at most, and travels in an envelope.
max_payload: 4MB
lame_duck_grace_period: 5s
lame_duck_duration: {{ .Values.nats.lameDuckSeconds }}s
jetstream {
  store_dir: "/data"
  max_file_store: {{ .Values.nats.maxFileStore }}
  max_memory_store: {{ .Values.nats.maxMemoryStore }}
  sync_interval: {{ .Values.nats.syncInterval }}
}
accounts {
  HUBWIRE {
    jetstream: enabled
    {{- if .Values.nats.roleUsers }}
    users: [
      # May do everything: operators, and pods from before the roles had users.
      { user: $NATS_USER, password: $NATS_PASSWORD }
      {{- .Files.Get "files/nats-users.conf" | replace "LISTENER_PREFIX" .Values.nats.listenerPrefix | trim | nindent 6 }}
    ]
    {{- else }}
    users: [ { user: $NATS_USER, password: $NATS_PASSWORD } ]
    {{- end }}
  }
  SYS {}
}
system_account: SYS
{{- if .Values.nats.tls.enabled }}
tls {
  cert_file: "/etc/nats-tls/tls.crt"
  key_file: "/etc/nats-tls/tls.key"
  timeout: 5
}
{{- end }}
{{- if gt (int .Values.nats.replicas) 1 }}
cluster {
  name: "{{ $full }}"
  listen: "{{ ternary "[::]" .Values.listenHost (eq .Values.listenHost "::") }}:6222"
  # Addresses of pods pass: clients know the servers by name.
  no_advertise: true
  {{- if .Values.nats.tls.enabled }}
  # Servers show each other their certificates.
  tls {
    cert_file: "/etc/nats-tls/tls.crt"
    key_file: "/etc/nats-tls/tls.key"
    ca_file: "/etc/nats-tls/ca.crt"
    verify: true
    timeout: 5
  }
  {{- end }}
  routes: [
    {{- range $n := until (int .Values.nats.replicas) }}
    "nats://{{ $full }}-nats-{{ $n }}.{{ $full }}-nats-peers.{{ $.Release.Namespace }}.svc.{{ $.Values.clusterDomain }}:6222"
    {{- end }}
  ]
}
{{- end }}
{{- end -}}
