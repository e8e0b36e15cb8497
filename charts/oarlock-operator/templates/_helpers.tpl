{{- define "oarlock-operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
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

{{- define "oarlock-operator.serviceAccount" -}}
{{- default (include "oarlock-operator.name" .) .Values.serviceAccount.name -}}
{{- end -}}
