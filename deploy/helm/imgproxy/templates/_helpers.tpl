{{/* The name of all objects. */}}
{{- define "imgproxy.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that never change: they select the pods. */}}
{{- define "imgproxy.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: edge
{{- end -}}

{{/* Labels of every object, but for its component. */}}
{{- define "imgproxy.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "imgproxy.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "imgproxy.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "imgproxy.image" -}}
{{- $repository := required "image.repository: where is the image? Build it with the Dockerfile, and push it to your registry" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* "yes" if the nodes share a database, else nothing. */}}
{{- define "imgproxy.isCluster" -}}
{{- $section := .Values.config.cluster | default dict -}}
{{- if or .Values.secrets.databaseUrl.name $section.database_url_file -}}yes{{- end -}}
{{- end -}}

{{/* "yes" if there may be more than one node, else nothing. */}}
{{- define "imgproxy.isMany" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.workload.replicas) 1) -}}yes{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes, such as 20Gi, in bytes. */}}
{{- define "imgproxy.bytes" -}}
{{- $unit := regexFind "[A-Za-z]*$" (toString .) -}}
{{- $factors := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if not (hasKey $factors $unit) -}}{{- fail (printf "%v: expected a size such as 20Gi" .) -}}{{- end -}}
{{- mulf (trimSuffix $unit (toString .) | float64) (get $factors $unit) | int64 -}}
{{- end -}}

{{/* What is asked of a volume of its own. */}}
{{- define "imgproxy.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .Values.cache.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.cache.size }}
{{- end -}}

{{/* From SIGTERM to SIGKILL: the port stays open, requests finish, all parts close. */}}
{{- define "imgproxy.graceSeconds" -}}
{{- $server := .Values.config.server | default dict -}}
{{- add (ceil (addf ($server.shutdown_delay_s | default 0) (hasKey $server "shutdown_timeout_s" | ternary $server.shutdown_timeout_s 20)) | int) 10 -}}
{{- end -}}

{{/* The secrets that can be files: value, section and setting of config.toml, name of the file. */}}
{{- define "imgproxy.secretFiles" -}}
- {value: originToken, section: origin, setting: token_file, file: origin-token}
- {value: adminToken, section: admin, setting: token_file, file: admin-token}
- {value: signingTokens, section: signing, setting: tokens_file, file: signing-tokens}
- {value: webhookSecrets, section: webhook, setting: secrets_file, file: webhook-secrets}
- {value: databaseUrl, section: cluster, setting: database_url_file, file: database-url}
- {value: storeSecretKey, section: shared_store, setting: secret_key_file, file: store-secret-key}
- {value: storeServiceAccount, section: shared_store, setting: service_account_file, file: store-service-account.json}
- {value: originCa, section: origin, setting: ca_file, file: origin-ca.crt}
- {value: originClientCertificate, section: origin, setting: client_certificate_file, file: origin-client.crt}
- {value: originClientKey, section: origin, setting: client_key_file, file: origin-client.key}
{{- end -}}

{{/* config.toml as JSON: the values, the files of the secrets, and the size of the cache. */}}
{{- define "imgproxy.settings" -}}
{{- $settings := deepCopy .Values.config -}}
{{- $written := dict -}}
{{- range include "imgproxy.secretFiles" . | fromYamlArray -}}
  {{- if (get $.Values.secrets .value).name -}}
    {{- $section := get $written .section | default dict -}}
    {{- $_ := set $section .setting (printf "/etc/imgproxy/secrets/%s" .file) -}}
    {{- $_ := set $written .section $section -}}
  {{- end -}}
{{- end -}}
{{- $bytes := include "imgproxy.bytes" .Values.cache.size | int64 -}}
{{- $_ := set $written "cache" (dict "dir" "/var/cache/imgproxy" "max_bytes" (div (mul $bytes 8) 10)) -}}
{{- if $settings.downstream -}}
  {{- $items := list -}}
  {{- range $settings.downstream -}}
    {{- $label := .name | default .kind -}}
    {{- if hasKey $.Values.secrets.downstream $label -}}
      {{- $items = append $items (merge (dict) . (dict "token_file" (printf "/etc/imgproxy/secrets/downstream-%s" $label))) -}}
    {{- else -}}
      {{- $items = append $items . -}}
    {{- end -}}
  {{- end -}}
  {{- $_ := set $settings "downstream" $items -}}
{{- end -}}
{{- mergeOverwrite $written $settings | toJson -}}
{{- end -}}

{{/* A value of TOML. A text in JSON is one in TOML, too; tables are written in one line. */}}
{{- define "imgproxy.toml" -}}
{{- if kindIs "map" . -}}
{ {{- range $at, $key := keys . | sortAlpha }}{{ if $at }},{{ end }} {{ toJson $key }} = {{ include "imgproxy.toml" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{- range $at, $item := . }}{{ if $at }}, {{ end }}{{ include "imgproxy.toml" $item }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* The text of config.toml. */}}
{{- define "imgproxy.configToml" -}}
{{- $settings := include "imgproxy.settings" . | fromJson -}}
# Written by Helm from the values of the release {{ .Release.Name }}.
{{- range $section, $content := $settings }}
{{- if kindIs "map" $content }}

[{{ $section }}]
{{- range $name, $value := $content }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }} = {{ include "imgproxy.toml" $value }}
{{- end }}
{{- end }}
{{- else }}
{{- range $content }}

[[{{ $section }}]]
{{- range $name, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }} = {{ include "imgproxy.toml" $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Volumes of the configuration and the secrets. */}}
{{- define "imgproxy.configVolumes" -}}
- name: config
  configMap:
    name: {{ include "imgproxy.fullname" . }}
- name: secrets
  projected:
    # Owned by root, group fsGroup: only the service's user reads them.
    defaultMode: 0440
    sources:
      {{- include "imgproxy.secretSources" . | nindent 6 }}
{{- end -}}

{{- define "imgproxy.secretSources" -}}
{{- $sources := list -}}
{{- range include "imgproxy.secretFiles" . | fromYamlArray -}}
  {{- $secret := get $.Values.secrets .value -}}
  {{- if $secret.name -}}
    {{- $sources = append $sources (dict "secret" (dict "name" $secret.name "items" (list (dict "key" $secret.key "path" .file)))) -}}
  {{- end -}}
{{- end -}}
{{- range $label, $secret := .Values.secrets.downstream -}}
  {{- $sources = append $sources (dict "secret" (dict "name" $secret.name "items" (list (dict "key" $secret.key "path" (printf "downstream-%s" $label))))) -}}
{{- end -}}
{{- toYaml $sources -}}
{{- end -}}

{{- define "imgproxy.configMounts" -}}
- name: config
  mountPath: /etc/imgproxy/config.toml
  subPath: config.toml
  readOnly: true
- name: secrets
  mountPath: /etc/imgproxy/secrets
  readOnly: true
{{- end -}}

{{/* The environment of the service and of `imgproxy check`. What the image sets is set here, too: a variable wins over config.toml. */}}
{{- define "imgproxy.environment" -}}
- name: IMGPROXY_SERVER__HOST
  value: {{ (.Values.config.server | default dict).host | default "0.0.0.0" | quote }}
{{- if include "imgproxy.isCluster" . }}
- name: IMGPROXY_CLUSTER__NODE
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "imgproxy.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# A cache has many files: their owner is not changed at each start.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "imgproxy.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Values that are valid, but not together. */}}
{{- define "imgproxy.refuse" -}}
{{- if and (include "imgproxy.isMany" .) (not (include "imgproxy.isCluster" .)) -}}
{{- fail "more than one node needs a cluster: set secrets.databaseUrl. Without it a purge would reach one node only, and the others would show revoked pictures" -}}
{{- end -}}
{{- if not .Values.config.origin.url -}}{{- fail "config.origin.url: the address of the Livingdocs server is missing" -}}{{- end -}}
{{- if not (or .Values.secrets.originToken.name .Values.config.origin.token_file) -}}
{{- fail "secrets.originToken.name: the Secret with the token of the Media Library is missing" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.secrets.adminToken.name) -}}
{{- fail "serviceMonitor needs secrets.adminToken: /-/metrics asks for it" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: the names of the image host are missing" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not (or .Values.autoscaling.cpuPercent .Values.autoscaling.renderWaiting)) -}}
{{- fail "autoscaling: set cpuPercent, renderWaiting or both" -}}
{{- end -}}
{{- $labels := list -}}
{{- range .Values.config.downstream -}}{{- $labels = append $labels (.name | default .kind) -}}{{- end -}}
{{- range $label, $secret := .Values.secrets.downstream -}}
{{- if not (has $label $labels) -}}
{{- fail (printf "secrets.downstream.%s: config.downstream has no cache of that name" $label) -}}
{{- end -}}
{{- end -}}
{{- $free := ternary (dig "cache" "min_free_bytes" 0 .Values.config) 1000000000 (hasKey (.Values.config.cache | default dict) "min_free_bytes") | int64 -}}
{{- if lt (include "imgproxy.bytes" .Values.cache.size | int64) (mul 2 $free) -}}
{{- fail (printf "cache.size: %s is less than twice config.cache.min_free_bytes (%d)" .Values.cache.size $free) -}}
{{- end -}}
{{- end -}}
