{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /*
Names do not contain the release's: two releases in one cluster would both take the pods of schedulerName fogsched and both measure
every node. Helm refuses the second one, because the ClusterRoles are there already.
*/ -}}

{{- define "fogsched.labels" -}}
app.kubernetes.io/part-of: fogsched
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* "image" and "imagePullPolicy" of a container, from [the values of an image, the chart]. */ -}}
{{- define "fogsched.image" -}}
{{- $image := index . 0 -}}
{{- $chart := index . 1 -}}
image: {{ printf "%s:%s" $image.repository (default $chart.AppVersion $image.tag) | quote }}
{{- with $image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}

{{- define "fogsched.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "fogsched.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The configuration of the scheduler. */ -}}
{{- define "fogsched.config" -}}
{{- if .Values.scheduler.config -}}
{{- toYaml .Values.scheduler.config }}
{{- else -}}
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection:
  leaderElect: true
  {{- if .Values.replaceDefault }}
  resourceName: kube-scheduler # the stock scheduler's: whoever has it leads, the other waits
  resourceNamespace: kube-system
  {{- else }}
  resourceName: fogsched
  resourceNamespace: {{ .Release.Namespace }}
  {{- end }}
clientConnection:
  qps: 1000 # the default, 50, holds a scheduler to some 20 pods a second
  burst: 2000
profiles:
{{- if .Values.replaceDefault }}
# As the stock scheduler would: a pod that asks for nothing is placed as before.
- schedulerName: default-scheduler
{{- end }}
- schedulerName: fogsched
  plugins:
    multiPoint:
      enabled:
      - name: NodeLatency
        weight: {{ .Values.scheduler.nodeLatency.weight }}
      {{- if .Values.scheduler.nodeMetrics.args }}
      - name: NodeMetrics
        weight: {{ .Values.scheduler.nodeMetrics.weight }}
      {{- end }}
    # It writes why it chose a node into the Binding. A bind plugin that comes after DefaultBinder is never asked; named here as well, it
    # comes before.
    bind:
      enabled:
      - name: NodeLatency
    # When none of the nearest nodes takes a pod, that must be seen before a plugin makes room by preemption.
    postFilter:
      enabled:
      - name: NodeLatency
  {{- $args := dict }}
  {{- if .Values.prober.enabled }}
  {{- $args = dict "interest" (printf "%s/fogprobe-interest" .Release.Namespace) }}
  {{- end }}
  {{- $args = mergeOverwrite $args (deepCopy .Values.scheduler.nodeLatency.args) }}
  {{- if or $args .Values.scheduler.nodeMetrics.args }}
  pluginConfig:
  {{- with $args }}
  - name: NodeLatency
    args:
      {{- toYaml . | nindent 6 }}
  {{- end }}
  {{- with .Values.scheduler.nodeMetrics.args }}
  - name: NodeMetrics
    args:
      {{- toYaml . | nindent 6 }}
  {{- end }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- /* Kustomize's way: the name changes with the content, so that a change restarts the scheduler. */ -}}
{{- define "fogsched.configName" -}}
fogsched-config-{{ include "fogsched.config" . | sha256sum | trunc 10 }}
{{- end -}}

{{- define "fogsched.apiServerPorts" -}}
{{- range .Values.networkPolicy.apiServerPorts }}
- {protocol: TCP, port: {{ . }}}
{{- end }}
{{- end -}}

{{- /* What the schema cannot say. */ -}}
{{- define "fogsched.validate" -}}
{{- if and .Values.replaceDefault (lt (int .Values.scheduler.replicas) 2) -}}
{{- fail "replaceDefault needs scheduler.replicas of 2 or more: while no fogsched runs, no pod of the cluster is placed, not even its own" -}}
{{- end -}}
{{- if and .Values.scheduler.config (or .Values.replaceDefault .Values.scheduler.nodeLatency.args .Values.scheduler.nodeMetrics.args) -}}
{{- fail "scheduler.config is the whole configuration: put what replaceDefault, scheduler.nodeLatency.args and scheduler.nodeMetrics.args say into it, and leave them out" -}}
{{- end -}}
{{- end -}}
