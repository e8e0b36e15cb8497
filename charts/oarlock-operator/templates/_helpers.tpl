{{- define "oarlock-operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "oarlock-operator.service" -}}
{{- include "oarlock-operator.name" . | trunc 55 | trimSuffix "-" -}}-metrics
{{- end -}}

{{- define "oarlock-operator.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end -}}

{{- /* Whether to make a monitor: list of Auto, Always or Never, and the root context. Empty means no. */ -}}
{{- define "oarlock-operator.monitored" -}}
{{- $wanted := index . 0 -}}
{{- $root := index . 1 -}}
{{- if or (eq $wanted "Always") (and (eq $wanted "Auto") ($root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) -}}
yes
{{- end -}}
{{- end -}}

{{- define "oarlock-operator.selector" -}}
app.kubernetes.io/name: oarlock-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "oarlock-operator.labels" -}}
{{ include "oarlock-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- /* With watchNamespace there may be many releases of one name, and cluster roles have no namespace. */ -}}
{{- define "oarlock-operator.nodeReader" -}}
{{- if .Values.watchNamespace }}{{ .Release.Namespace }}-{{ end }}{{ include "oarlock-operator.name" . }}-nodes
{{- end -}}

{{- define "oarlock-operator.serviceAccount" -}}
{{- default (include "oarlock-operator.name" .) .Values.serviceAccount.name -}}
{{- end -}}
