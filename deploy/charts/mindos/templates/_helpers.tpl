{{- define "mindos.image" -}}
{{- $registry := dig "imageRegistry" "" (default dict .Values.global) -}}
{{- $repository := .Values.image.repository -}}
{{- if $registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" $registry) $repository }}{{ end -}}
{{- if .Values.image.digest }}{{ $repository }}@{{ .Values.image.digest }}{{ else }}{{ $repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end }}

{{- define "mindos.selector" -}}
app.kubernetes.io/name: mindos
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mindos.labels" -}}
{{ include "mindos.selector" . }}
app.kubernetes.io/component: control-plane
app.kubernetes.io/part-of: mindos
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Names of the control plane within its cluster and beyond. */}}
{{- define "mindos.names" -}}
{{- $namespace := .Release.Namespace -}}
{{- join "," (concat (list "localhost" "mindos" (printf "mindos.%s" $namespace) (printf "mindos.%s.svc" $namespace) (printf "mindos.%s.svc.cluster.local" $namespace)) .Values.tls.names) -}}
{{- end }}

{{/* Figures by preset: those of gitlens and platform are what the contracts of earlier systems say. */}}
{{- define "mindos.preset" -}}
standard:
  startup: {periodSeconds: 5, failureThreshold: 60}
  liveness: {periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3}
  readiness: {periodSeconds: 5, timeoutSeconds: 3, failureThreshold: 2}
  resources:
    requests: {cpu: 250m, memory: 512Mi}
    limits: {memory: 2Gi}
gitlens:
  startup: {periodSeconds: 5, failureThreshold: 60}
  liveness: {initialDelaySeconds: 30, periodSeconds: 10}
  readiness: {initialDelaySeconds: 10, periodSeconds: 5}
  resources:
    requests: {cpu: 250m, memory: 512Mi}
    limits: {cpu: "1", memory: 1Gi}
platform:
  startup: {periodSeconds: 5, failureThreshold: 60}
  liveness: {initialDelaySeconds: 30, periodSeconds: 60, timeoutSeconds: 1}
  readiness: {initialDelaySeconds: 10, periodSeconds: 30}
  resources:
    requests: {cpu: 100m, memory: 128Mi}
    limits: {cpu: 500m, memory: 512Mi}
{{- end }}

{{- define "mindos.monitors" -}}
{{- if or (eq (toString .Values.serviceMonitor.enabled) "true") (and (eq (toString .Values.serviceMonitor.enabled) "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}yes{{ end -}}
{{- end }}
{{- define "mindos.rules" -}}
{{- if or (eq (toString .Values.prometheusRule.enabled) "true") (and (eq (toString .Values.prometheusRule.enabled) "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}yes{{ end -}}
{{- end }}

{{/* Four fifths of the volume, in MiB. */}}
{{- define "mindos.journalQuota" -}}
{{- if .Values.persistence.journalQuota -}}
{{ .Values.persistence.journalQuota }}
{{- else -}}
{{- $size := .Values.persistence.size -}}
{{- $number := regexFind "^[0-9]+" $size | int64 -}}
{{- $mib := $number -}}
{{- if hasSuffix "Gi" $size }}{{ $mib = mul $number 1024 }}{{ else if hasSuffix "Ti" $size }}{{ $mib = mul $number 1048576 }}{{ end -}}
{{ div (mul $mib 4) 5 }}MiB
{{- end -}}
{{- end }}
