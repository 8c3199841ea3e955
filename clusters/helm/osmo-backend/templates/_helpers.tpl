{{- define "osmo-backend.labels" -}}
app.kubernetes.io/name: osmo-backend
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "osmo-backend.selector" -}}
app.kubernetes.io/name: osmo-backend
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "osmo-backend.account" -}}
osmo-backend-{{ .Release.Name }}
{{- end }}

{{- define "osmo-backend.token" -}}
{{- if .Values.token.existingSecret }}{{ .Values.token.existingSecret }}{{ else }}{{ .Release.Name }}-token{{ end }}
{{- end }}
