{{- define "mindos-agent.image" -}}
{{- $registry := dig "imageRegistry" "" (default dict .Values.global) -}}
{{- $repository := .Values.image.repository -}}
{{- if $registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" $registry) $repository }}{{ end -}}
{{- if .Values.image.digest }}{{ $repository }}@{{ .Values.image.digest }}{{ else }}{{ $repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end }}

{{- define "mindos-agent.selector" -}}
app.kubernetes.io/name: mindos-cluster-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mindos-agent.labels" -}}
{{ include "mindos-agent.selector" . }}
app.kubernetes.io/component: cluster-agent
app.kubernetes.io/part-of: mindos
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "mindos-agent.monitors" -}}
{{- if or (eq (toString .Values.serviceMonitor.enabled) "true") (and (eq (toString .Values.serviceMonitor.enabled) "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}yes{{ end -}}
{{- end }}

{{- define "mindos-agent.caConfigMap" -}}
{{- default "mindos-ca" .Values.ca.existingConfigMap -}}
{{- end }}
