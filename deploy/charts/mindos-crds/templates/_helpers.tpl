{{/* Takes CEL rules out of a definition, in place: API servers before 1.25 do not know them, and some refuse what they do not know. */}}
{{- define "mindos-crds.without-rules" -}}
{{- if kindIs "map" . -}}
{{- $_ := unset . "x-kubernetes-validations" -}}
{{- range $_, $value := . }}{{ include "mindos-crds.without-rules" $value }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- range . }}{{ include "mindos-crds.without-rules" . }}{{ end -}}
{{- end -}}
{{- end }}
