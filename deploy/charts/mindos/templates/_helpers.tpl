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
{{- $names := list "localhost" -}}
{{- range ternary (list "mindos" "mindos-platform") (list "mindos") .Values.platform.enabled -}}
{{- $inside := printf "%s.%s" . $.Release.Namespace -}}
{{- $names = concat $names (list . $inside (printf "%s.svc" $inside) (printf "%s.svc.cluster.local" $inside)) -}}
{{- end -}}
{{- join "," (concat $names .Values.tls.names) -}}
{{- end }}

{{/* Surfaces of other systems, each on an address of its own. */}}
{{- define "mindos.surfaces" -}}
{{- $surfaces := list -}}
{{- if .Values.keda.enabled }}{{ $surfaces = append $surfaces "keda=0.0.0.0:8092" }}{{ end -}}
{{- if .Values.platform.enabled }}{{ $surfaces = append $surfaces "platform=0.0.0.0:8080" }}{{ end -}}
{{- join "," $surfaces -}}
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
  liveness: {initialDelaySeconds: 10, periodSeconds: 30, timeoutSeconds: 1}
  readiness: {initialDelaySeconds: 5, periodSeconds: 10}
  resources:
    requests: {cpu: 100m, memory: 256Mi}
    limits: {cpu: 500m, memory: 512Mi}
{{- end }}

{{- define "mindos.monitors" -}}
{{- if or (eq (toString .Values.serviceMonitor.enabled) "true") (and (eq (toString .Values.serviceMonitor.enabled) "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}yes{{ end -}}
{{- end }}
{{- define "mindos.rules" -}}
{{- if or (eq (toString .Values.prometheusRule.enabled) "true") (and (eq (toString .Values.prometheusRule.enabled) "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}yes{{ end -}}
{{- end }}

{{/* Four fifths of the volume, in MiB, where this chart says how large that is. */}}
{{- define "mindos.journalQuota" -}}
{{- if .Values.persistence.journalQuota -}}
{{ .Values.persistence.journalQuota }}
{{- else if and .Values.persistence.enabled (not .Values.persistence.existingClaim) -}}
{{- $size := .Values.persistence.size -}}
{{- $number := regexFind "^[0-9]+" $size | int64 -}}
{{- $mib := $number -}}
{{- if hasSuffix "Gi" $size }}{{ $mib = mul $number 1024 }}{{ else if hasSuffix "Ti" $size }}{{ $mib = mul $number 1048576 }}{{ end -}}
{{ div (mul $mib 4) 5 }}MiB
{{- end -}}
{{- end }}
