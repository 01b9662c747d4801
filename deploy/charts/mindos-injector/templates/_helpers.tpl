{{- define "mindos-injector.image" -}}
{{- $registry := dig "imageRegistry" "" (default dict .root.Values.global) -}}
{{- $repository := .image.repository -}}
{{- if $registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" $registry) $repository }}{{ end -}}
{{- if .image.digest }}{{ $repository }}@{{ .image.digest }}{{ else }}{{ $repository }}:{{ default .root.Chart.AppVersion .image.tag }}{{ end -}}
{{- end }}

{{- define "mindos-injector.selector" -}}
app.kubernetes.io/name: mindos-injector
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mindos-injector.labels" -}}
{{ include "mindos-injector.selector" . }}
app.kubernetes.io/component: injector
app.kubernetes.io/part-of: mindos
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Settings that may come from the chart around it. */}}
{{- define "mindos-injector.cluster" -}}
{{- required "injector.cluster (or global.mindos.cluster): the name of this cluster is required" (default (dig "mindos" "cluster" "" (default dict .Values.global)) .Values.cluster) -}}
{{- end }}
{{- define "mindos-injector.controlPlane" -}}
{{- required "injector.controlPlane (or global.mindos.controlPlane): where agents dial, such as https://mindos.example.com:8091, is required" (default (dig "mindos" "controlPlane" "" (default dict .Values.global)) .Values.controlPlane) -}}
{{- end }}

{{- define "mindos-injector.region" -}}
{{- default (dig "mindos" "region" "" (default dict .Values.global)) .Values.region -}}
{{- end }}
{{- define "mindos-injector.issuer" -}}
{{- default (dig "mindos" "issuer" "" (default dict .Values.global)) .Values.issuer -}}
{{- end }}
{{- define "mindos-injector.audience" -}}
{{- coalesce .Values.audience (dig "mindos" "audience" "" (default dict .Values.global)) "mindos" -}}
{{- end }}
{{- define "mindos-injector.caConfigMap" -}}
{{- coalesce .Values.trust.configMap (dig "mindos" "caConfigMap" "" (default dict .Values.global)) "mindos-ca" -}}
{{- end }}

{{- define "mindos-injector.monitors" -}}
{{- if or (eq (toString .Values.serviceMonitor.enabled) "true") (and (eq (toString .Values.serviceMonitor.enabled) "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}yes{{ end -}}
{{- end }}

{{- define "mindos-injector.managed" -}}
{{- if eq .Values.certificate.by "cert-manager" }}yes{{ end -}}
{{- end }}
