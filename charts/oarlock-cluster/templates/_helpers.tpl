{{- define "oarlock-cluster.name" -}}
{{- $name := default .Release.Name .Values.name -}}
{{- if or (gt (len $name) 40) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "%q cannot name a RaftCluster (at most 40 lower-case letters, digits and dashes, a letter first): set the value name, or choose another release name" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "oarlock-cluster.labels" -}}
app.kubernetes.io/name: oarlock-cluster
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- /* Empty: the operator's default. */ -}}
{{- define "oarlock-cluster.image" -}}
{{- if or .Values.image.repository .Values.image.tag -}}
{{ .Values.image.repository | default "oarlock/node" }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "oarlock-cluster.testName" -}}
{{ include "oarlock-cluster.name" . }}-helm-test
{{- end -}}
