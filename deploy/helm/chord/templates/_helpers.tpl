{{- define "chord.fullname" -}}
{{- if contains "chord" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-chord" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "chord.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "chord.fullname" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end -}}
{{- end }}

{{/* The labels below take (dict "root" $ "component" "gateway"). */}}
{{- define "chord.selector" -}}
app.kubernetes.io/name: chord
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "chord.labels" -}}
{{ include "chord.selector" . }}
app.kubernetes.io/part-of: chord
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* (dict "root" $ "gpu" true) */}}
{{- define "chord.image" -}}
{{- $image := .root.Values.image -}}
{{- $tag := default .root.Chart.AppVersion $image.tag -}}
{{ $image.repository }}:{{ if .gpu }}{{ default (printf "%s-cuda" $tag) $image.cudaTag }}{{ else }}{{ $tag }}{{ end }}
{{- end }}

{{/* What the pods of all three components share; (dict "root" $ "component" "vision" "values" .Values.vision "grace" 60). */}}
{{- define "chord.podSettings" -}}
serviceAccountName: {{ include "chord.serviceAccount" .root }}
automountServiceAccountToken: false
# Kubernetes would make variables like CHORD_GATEWAY_PORT, which look like settings.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .root.Values.securityContext.runAsUser }}
  runAsGroup: {{ .root.Values.securityContext.runAsGroup }}
  fsGroup: {{ .root.Values.securityContext.fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: {{ .root.Values.topologySpread.maxSkew }}
    topologyKey: {{ .root.Values.topologySpread.topologyKey }}
    whenUnsatisfiable: {{ .root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "chord.selector" . | nindent 8 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  {{- if .root.Values.model.existingClaim }}
  - name: model
    persistentVolumeClaim: {claimName: {{ .root.Values.model.existingClaim }}, readOnly: true}
  {{- else if .root.Values.model.hostPath }}
  - name: model
    hostPath: {path: {{ .root.Values.model.hostPath }}, type: Directory}
  {{- end }}
  {{- if and (eq .component "gateway") .values.tlsSecret }}
  - name: public-tls
    secret: {secretName: {{ .values.tlsSecret }}, defaultMode: 0440}
  {{- end }}
  {{- if and (eq .component "gateway") .values.apiKeysSecret }}
  - name: api-keys
    secret: {secretName: {{ .values.apiKeysSecret }}, defaultMode: 0440}
  {{- end }}
{{- end }}

{{- define "chord.containerSettings" -}}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if or .root.Values.model.existingClaim .root.Values.model.hostPath }}
  - {name: model, mountPath: {{ .root.Values.model.mountPath }}, readOnly: true}
  {{- end }}
  {{- if and (eq .component "gateway") .values.tlsSecret }}
  - {name: public-tls, mountPath: /etc/chord/public-tls, readOnly: true}
  {{- end }}
  {{- if and (eq .component "gateway") .values.apiKeysSecret }}
  - {name: api-keys, mountPath: /etc/chord/keys, readOnly: true}
  {{- end }}
{{- end }}

{{/* A worker's Deployment, headless Service, budget and scaling;
     (dict "root" $ "component" "vision" "values" .Values.vision "program" … "port" … "service" … "queue" …). */}}
{{- define "chord.worker" -}}
{{- $name := printf "%s-%s" (include "chord.fullname" .root) .component -}}
{{- $v := .values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "chord.labels" . | nindent 4 }}
spec:
  {{- if not $v.autoscaling.enabled }}
  replicas: {{ $v.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "chord.selector" . | nindent 6 }}
  strategy:
    type: RollingUpdate
    # A GPU is rarely free beside the running worker: with one, the old worker goes first.
    rollingUpdate: {{ if $v.gpu.enabled }}{maxSurge: 0, maxUnavailable: 1}{{ else }}{maxSurge: 1, maxUnavailable: 0}{{ end }}
  template:
    metadata:
      labels:
        {{- include "chord.labels" . | nindent 8 }}
      {{- with $v.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "chord.podSettings" (merge (dict "grace" (int (add $v.lameDuckSeconds $v.drainSeconds 15))) .) | nindent 6 }}
      containers:
        - name: worker
          image: {{ include "chord.image" (dict "root" .root "gpu" $v.gpu.enabled) }}
          {{- include "chord.containerSettings" . | nindent 10 }}
          command: [/opt/chord/bin/{{ .program }}]
          args:
            - --model_dir={{ .root.Values.model.path }}
            - --address=0.0.0.0:{{ .port }}
            - --metrics_address=0.0.0.0:9100
            - --device={{ $v.device }}
            - --dtype={{ $v.dtype }}
            - --drain_seconds={{ $v.drainSeconds }}
            {{- if eq .component "vision" }}
            - --language_workers=language=dns:{{ include "chord.fullname" .root }}-language:50062
            {{- end }}
            {{- range $v.extraArgs }}
            - {{ . | quote }}
            {{- end }}
          ports:
            - {name: grpc, containerPort: {{ .port }}}
            - {name: metrics, containerPort: 9100}
          # Until the model is loaded. The other two begin after it.
          startupProbe:
            grpc: {port: {{ .port }}, service: {{ .service }}}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: {{ ceil (divf $v.startupSeconds 2) }}
          readinessProbe:
            grpc: {port: {{ .port }}, service: {{ .service }}}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 2
          # The process answers at all: not whether it has a peer, else one lost worker restarts all.
          livenessProbe:
            grpc: {port: {{ .port }}}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          lifecycle:
            preStop:
              # Leaves the headless Service's addresses first; the gateways look them up every 5 s.
              exec: {command: [sleep, {{ $v.lameDuckSeconds | quote }}]}
          resources:
            {{- $resources := deepCopy $v.resources }}
            {{- if $v.gpu.enabled }}
            {{- $_ := set $resources "limits" (merge (dict $v.gpu.resource $v.gpu.count) (default (dict) $resources.limits)) }}
            {{- end }}
            {{- toYaml $resources | nindent 12 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels:
    {{- include "chord.labels" . | nindent 4 }}
spec:
  # Headless: every ready pod is an address of the name, and the gateway picks among them by load.
  clusterIP: None
  selector:
    {{- include "chord.selector" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ .port }}, targetPort: grpc, appProtocol: grpc}
{{- if $v.podDisruptionBudget.enabled }}
---
{{ include "chord.podDisruptionBudget" . }}
{{- end }}
{{- if $v.autoscaling.enabled }}
---
{{ include "chord.workerAutoscaler" . }}
{{- end }}
{{- end }}

{{- define "chord.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "chord.fullname" .root }}-{{ .component }}
  labels:
    {{- include "chord.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "chord.selector" . | nindent 6 }}
{{- end }}

{{- define "chord.workerAutoscaler" -}}
{{- $name := printf "%s-%s" (include "chord.fullname" .root) .component -}}
{{- $a := .values.autoscaling -}}
{{- $behavior := dict "scaleDown" (dict "stabilizationWindowSeconds" .root.Values.autoscaling.scaleDownStabilizationSeconds "policies" (list (dict "type" "Pods" "value" 1 "periodSeconds" 60))) "scaleUp" (dict "stabilizationWindowSeconds" 15 "policies" (list (dict "type" "Percent" "value" 100 "periodSeconds" 60))) -}}
{{- if eq .root.Values.autoscaling.kind "keda" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $name }}
  labels:
    {{- include "chord.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {name: {{ $name }}}
  minReplicaCount: {{ $a.minReplicas }}
  maxReplicaCount: {{ $a.maxReplicas }}
  pollingInterval: 15
  cooldownPeriod: {{ .root.Values.autoscaling.scaleDownStabilizationSeconds }}
  # When Prometheus does not answer: the size without autoscaling.
  fallback: {failureThreshold: 3, replicas: {{ .values.replicas }}}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- toYaml $behavior | nindent 8 }}
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ .root.Values.autoscaling.prometheusAddress }}
        query: sum(chord_queue_depth{namespace="{{ .root.Release.Namespace }}",queue="{{ .queue }}"})
        threshold: {{ $a.queueDepth | quote }}
{{- else -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  labels:
    {{- include "chord.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ $name }}}
  minReplicas: {{ $a.minReplicas }}
  maxReplicas: {{ $a.maxReplicas }}
  metrics:
    - type: Pods
      pods:
        metric:
          name: chord_queue_depth
          selector: {matchLabels: {queue: {{ .queue }}}}
        target: {type: AverageValue, averageValue: {{ $a.queueDepth | quote }}}
  behavior:
    {{- toYaml $behavior | nindent 4 }}
{{- end -}}
{{- end }}
