{{- define "osmo-ray.labels" -}}
app.kubernetes.io/name: osmo-ray
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "osmo-ray.selector" -}}
app.kubernetes.io/name: osmo-ray
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "osmo-ray.confined" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{- define "osmo-ray.environment" -}}
- {name: OSMO_HOME, value: /home/osmo}
- {name: OSMO_HOST, value: 0.0.0.0}
- {name: OSMO_PUBLIC_URL, value: {{ required "url: where people and agents find the platform, https://HOST" .Values.url | quote }}}
- {name: OSMO_STORAGE_URL, value: {{ required "storage.url: where data goes, such as s3://bucket/prefix" .Values.storage.url | quote }}}
- name: OSMO_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "database.existingSecret: a Secret with the address of a PostgreSQL" .Values.database.existingSecret }}
      key: {{ .Values.database.key }}
{{- with .Values.oidc }}
{{- if .issuer }}
- {name: OSMO_OIDC_ISSUER, value: {{ .issuer | quote }}}
- {name: OSMO_OIDC_CLIENT_ID, value: {{ .clientId | quote }}}
- {name: OSMO_OIDC_ROLE_MAP, value: {{ .roleMap | quote }}}
{{- if .existingSecret }}
- {name: OSMO_OIDC_CLIENT_SECRET_FILE, value: /home/osmo/oidc.secret}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: OSMO_{{ upper $name }}, value: {{ if kindIs "string" $value }}{{ $value | quote }}{{ else }}{{ toJson $value | quote }}{{ end }}}
{{- end }}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD, value: "0"}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A pod of Ray: `resources` and `head` beside the root. */}}
{{- define "osmo-ray.pod" -}}
{{- $v := .root.Values -}}
metadata:
  labels:
    {{- include "osmo-ray.selector" .root | nindent 4 }}
    {{- with $v.pods.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with $v.pods.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ .root.Release.Name }}
  automountServiceAccountToken: {{ $v.rbac.quotas }}
  enableServiceLinks: false
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  {{- with $v.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.pods.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.pods.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.pods.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.pods.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  initContainers:
  - name: secrets # which the platform takes only from files that nobody else can read
    image: "{{ $v.image.repository }}:{{ $v.image.tag }}"
    imagePullPolicy: {{ $v.image.pullPolicy }}
    command: [sh, -c, "umask 077 && cp -f /var/run/osmo/*/* /home/osmo/"]
    securityContext: {{- include "osmo-ray.confined" . | nindent 6 }}
    volumeMounts:
    - {name: home, mountPath: /home/osmo}
    - {name: key, mountPath: /var/run/osmo/key, readOnly: true}
    {{- if $v.oidc.existingSecret }}
    - {name: oidc, mountPath: /var/run/osmo/oidc, readOnly: true}
    {{- end }}
  containers:
  - name: {{ .name }}
    image: "{{ $v.image.repository }}:{{ $v.image.tag }}"
    imagePullPolicy: {{ $v.image.pullPolicy }}
    securityContext: {{- include "osmo-ray.confined" . | nindent 6 }}
    env: {{- include "osmo-ray.environment" .root | nindent 4 }}
    {{- with $v.storage.existingSecret }}
    envFrom:
    - secretRef: {name: {{ . }}}
    {{- end }}
    ports:
    {{- if eq .name "ray-head" }}
    - {name: gcs-server, containerPort: 6379}
    - {name: dashboard, containerPort: 8265}
    {{- end }}
    - {name: serve, containerPort: 8000}
    resources: {{- toYaml .resources | nindent 6 }}
    volumeMounts:
    - {name: home, mountPath: /home/osmo}
    - {name: tmp, mountPath: /tmp}
    - {name: shm, mountPath: /dev/shm}
  volumes:
  - {name: home, emptyDir: {}}
  - {name: tmp, emptyDir: {}}
  - {name: shm, emptyDir: {medium: Memory, sizeLimit: 1Gi}}
  - name: key
    secret:
      secretName: {{ required "secretKey.existingSecret: a Secret with the key that seals credentials" $v.secretKey.existingSecret }}
      defaultMode: 0440
      items: [{key: {{ $v.secretKey.key }}, path: secret.key}]
  {{- if $v.oidc.existingSecret }}
  - name: oidc
    secret:
      secretName: {{ $v.oidc.existingSecret }}
      defaultMode: 0440
      items: [{key: {{ $v.oidc.key }}, path: oidc.secret}]
  {{- end }}
{{- end }}
