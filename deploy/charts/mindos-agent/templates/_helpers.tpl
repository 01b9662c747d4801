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

{{/* Settings that the injector has as well: what the agent alone is told, else what both are. */}}
{{- define "mindos-agent.region" -}}
{{- default (dig "mindos" "region" "" (default dict .Values.global)) .Values.region -}}
{{- end }}
{{- define "mindos-agent.issuer" -}}
{{- default (dig "mindos" "issuer" "" (default dict .Values.global)) .Values.join.issuer -}}
{{- end }}
{{- define "mindos-agent.audience" -}}
{{- coalesce .Values.join.audience (dig "mindos" "audience" "" (default dict .Values.global)) "mindos" -}}
{{- end }}
{{- define "mindos-agent.existingConfigMap" -}}
{{- default (dig "mindos" "caConfigMap" "" (default dict .Values.global)) .Values.ca.existingConfigMap -}}
{{- end }}
{{- define "mindos-agent.caConfigMap" -}}
{{- default "mindos-ca" (include "mindos-agent.existingConfigMap" .) -}}
{{- end }}

{{/* That agent and injector are told the same. The values of a subchart hold what is global, and nothing else of what is said above it. */}}
{{- define "mindos-agent.agree" -}}
{{- if .Values.injector.enabled }}
{{- $injector := dict "Values" .Values.injector }}
{{- $settings := dict "region" (list "region" "injector.region") }}
{{- if eq .Values.injector.trust.by "configMap" }}
{{- $_ := set $settings "caConfigMap" (list "ca.existingConfigMap" "injector.trust.configMap") }}
{{- end }}
{{- if and (eq .Values.join.by "serviceAccount") (eq (include "mindos-agent.issuer" .) (include "mindos-injector.issuer" $injector)) }}
{{- $_ := set $settings "audience" (list "join.audience" "injector.audience") }}
{{- end }}
{{- range $name, $values := $settings }}
{{- $ours := include (printf "mindos-agent.%s" $name) $ }}
{{- $theirs := include (printf "mindos-injector.%s" $name) $injector }}
{{- if ne $ours $theirs }}
{{- fail (printf "the agent has %s %q and the injector %s %q: expected the same for both, in global.mindos.%s" (first $values) $ours (last $values) $theirs $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
