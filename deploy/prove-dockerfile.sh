#!/usr/bin/env bash
# Proves the Dockerfile without a Docker daemon, as root on a Debian or Ubuntu machine:
#
#   apt-get install buildah debootstrap
#   deploy/prove-dockerfile.sh [SUITE]            SUITE: bookworm (default), trixie
#
# 1. debootstrap makes the base image, from the mirror that this machine's apt uses (or from $MIRROR).
# 2. buildah builds the Dockerfile on it, step by step, each RUN in a chroot.
# 3. The image runs as with `docker run --read-only --cap-drop=ALL --security-opt=no-new-privileges`: its root file system is
#    read-only, only the volume is writable, and it is PID 1 of a PID namespace. User, environment and entrypoint are read
#    from the image.
# 4. Checks: health, user, privileges, what is writable, jemalloc in every process, rendered pictures, fonts, memory returned
#    to the system, exit status 0 after SIGTERM.
#
# The base is kept in $STATE for the next run; everything else is removed. The exit status is 0 only if every check passed.
set -euo pipefail

suite=${1:-bookworm}
repo=$(cd "$(dirname "$0")/.." && pwd)
state=${STATE:-/var/tmp/imgproxy-proof}
work=$(mktemp -d /var/tmp/imgproxy-proof.XXXXXX)
tag="localhost/imgproxy-proof:$suite"
base="localhost/imgproxy-proof-base:$suite"
started=()
failed=0

say() { printf '\n== %s\n' "$*"; }
check() { # check TEXT COMMAND...
  if "${@:2}"; then printf '  ok    %s\n' "$1"; else printf '  FAIL  %s\n' "$1"; failed=1; fi
}
build() { buildah --root "$state/storage" --runroot "$state/run" "$@"; }

inner_pid() { tr -d ' ' 2>/dev/null <"/proc/$1/task/$1/children" || true; }
clean_up() {
  local pid
  exec 2>/dev/null # no messages of the shell about killed processes
  # unshare's --kill-child has no effect after the change of user. So PID 1 of each namespace is killed here; all other
  # processes of the namespace end with it.
  for pid in "${started[@]}"; do kill -KILL $(inner_pid "$pid") "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  [ -z "${container:-}" ] || build rm "$container" >/dev/null 2>&1 || true
  build rmi "$tag" >/dev/null 2>&1 || true
  build rmi --prune >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT

for tool in buildah debootstrap unshare setpriv curl python3; do
  command -v "$tool" >/dev/null || { echo "needs $tool: apt-get install buildah debootstrap util-linux curl" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "needs root: mounts and chroot" >&2; exit 2; }

# --- 1. the base -------------------------------------------------------------------------------------------------
mkdir -p "$state"
if ! build inspect --type image "$base" >/dev/null 2>&1; then
  mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' | grep -v security | sed -n 1p)}
  say "debootstrap $suite"
  debootstrap --variant=minbase "$suite" "$work/base" "$mirror" >"$work/debootstrap.log" ||
    { tail -5 "$work/debootstrap.log" >&2; exit 1; }
  scratch=$(build from scratch)
  build copy --quiet "$scratch" "$work/base" / >/dev/null
  build commit --quiet "$scratch" "$base" >/dev/null
  build rm "$scratch" >/dev/null
  rm -rf "$work/base"
fi

# --- 2. the build ------------------------------------------------------------------------------------------------
# pip's settings on this machine (a mirror, a certificate) are the two secrets that the Dockerfile mounts.
python3 - "$work" <<'PYTHON'
import os, ssl, subprocess, sys

work = sys.argv[1]
listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
found = {}
for line in listing.splitlines():
    name, _, value = line.partition("=")
    found[name.replace(":env:", "").removeprefix("global").strip(".")] = value.strip("'")
bundle = found.get("cert") or ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
keep = {key: found[key] for key in ("index-url", "extra-index-url", "proxy", "trusted-host", "default-timeout") if key in found}
with open(os.path.join(work, "pip.conf"), "w") as file:
    file.write("[global]\ncert = /run/secrets/ca.crt\n" + "".join(f"{key} = {value}\n" for key, value in keep.items()))
with open(bundle, "rb") as source, open(os.path.join(work, "ca.crt"), "wb") as target:
    target.write(source.read())
PYTHON

say "build the Dockerfile on $base"
build build --isolation chroot --format docker --layers=false --build-arg "BASE=$base" \
  --secret "id=pip.conf,src=$work/pip.conf" --secret "id=ca.crt,src=$work/ca.crt" \
  --file "$repo/Dockerfile" --tag "$tag" "$repo" >"$work/build.log" 2>&1 ||
  { tail -40 "$work/build.log" >&2; exit 1; }
grep -E '^\[?[0-9/]*\]? ?STEP' "$work/build.log" | cut -c1-150
container=$(build from "$tag")
root=$(build mount "$container")

# The image's configuration as shell variables.
build inspect --type image "$tag" | python3 -c '
import json, shlex, sys
config = json.load(sys.stdin)["Docker"]["config"]
quote = lambda words: " ".join(map(shlex.quote, words or []))
print("image_env=(", quote(config["Env"]), ")", sep="")
print("image_command=(", quote((config["Entrypoint"] or []) + (config["Cmd"] or [])), ")", sep="")
print("image_entrypoint=(", quote(config["Entrypoint"]), ")", sep="")
print("image_health=(", quote(config.get("Healthcheck", {}).get("Test")), ")", sep="")
for name, key in (("user", "User"), ("workdir", "WorkingDir"), ("stopsignal", "StopSignal")):
    print(f"image_{name}={shlex.quote(config.get(key) or str())}")
print("image_volumes=(", quote(config.get("Volumes") or {}), ")", sep="")
' >"$work/image.sh"
# shellcheck source=/dev/null
. "$work/image.sh"

say "what the image says about itself"
printf '  size        %s MB\n' "$(du -sm "$root" | cut -f1)"
printf '  command     %s\n' "${image_command[*]}"
check "user is a number and not root: $image_user" test "${image_user%%:*}" -gt 0
check "one volume: ${image_volumes[*]}" test "${image_volumes[*]}" = /var/cache/imgproxy
check "stop signal: $image_stopsignal" test "$image_stopsignal" = SIGTERM
check "health check: ${image_health[*]}" test "${image_health[0]:-}" = CMD
check "no pip, no compiler in it" bash -c '! ls "$1"/opt/imgproxy/bin/pip* "$1"/usr/bin/gcc "$1"/opt/builder 2>/dev/null' - "$root"
check "no secret of the build in it" bash -c '! test -s "$1"/etc/pip.conf && ! ls "$1"/run/secrets/* 2>/dev/null' - "$root"
check "no new setuid program" test -z "$(find "$root/opt" -xdev -perm /6000)"

# --- 3. run it ---------------------------------------------------------------------------------------------------
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# enter VOLUME [VAR=VALUE...] -- COMMAND...: replace this shell by the command, inside the read-only image
enter() {
  local volume=$1 environment=()
  shift
  while [ "$1" != -- ]; do environment+=("$1"); shift; done
  shift
  exec unshare --mount --pid --ipc --fork --kill-child=KILL -- bash -c '
    set -e
    root=$1 volume=$2 user=$3 workdir=$4; shift 4
    mount --make-rprivate /
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for node in null zero full random urandom; do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
    mkdir "$root/dev/shm"
    mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
    mount -o remount,ro "$root/dev"
    mount --bind "$volume" "$root/var/cache/imgproxy"
    mount -o remount,bind,ro "$root"
    exec chroot "$root" /usr/bin/setpriv --reuid="${user%%:*}" --regid="${user##*:}" --clear-groups --no-new-privs \
      --inh-caps=-all --bounding-set=-all /usr/bin/env --ignore-environment --chdir="$workdir" "$@"
  ' enter "$root" "$volume" "$image_user" "$image_workdir" "${image_env[@]}" "${environment[@]}" "$@"
}

new_volume() { install --directory --owner="${image_user%%:*}" --group="${image_user##*:}" --mode=0750 "$1"; }
await() { # await SECONDS COMMAND...: repeat the command until it succeeds, for at most so many seconds
  local end=$((SECONDS + $1))
  until "${@:2}" >/dev/null 2>&1; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.2; done
}
family() { # family PID: the process and all its descendants
  local child
  echo "$1"
  for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do family "$child"; done
}
memory_mb() { # memory_mb PID: of the process and all its descendants; shared pages count once
  local pid
  for pid in $(family "$1"); do awk '/^Pss:/ {print $2}' "/proc/$pid/smaps_rollup" 2>/dev/null || true; done |
    awk '{sum += $1} END {print int(sum / 1024)}'
}

start_edge() { # start_edge NAME [VAR=VALUE...]: sets edge (its shell), main (its PID 1) and url
  local port name=$1
  shift
  port=$(free_port)
  new_volume "$work/$name"
  (enter "$work/$name" "IMGPROXY_SERVER__PORT=$port" "IMGPROXY_ORIGIN__URL=http://127.0.0.1:$library_port" \
    "IMGPROXY_ORIGIN__TOKEN=$token" "$@" -- "${image_command[@]}") >"$work/$name.log" 2>&1 &
  edge=$!
  started+=("$edge")
  url="http://127.0.0.1:$port" edge_port=$port
  await 30 curl --fail --silent --noproxy '*' "$url/-/health" || { cat "$work/library.log" "$work/$name.log" >&2; exit 1; }
  main=$(inner_pid "$edge")
}

library_port=$(free_port)
token=proof-$RANDOM$RANDOM
new_volume "$work/library"
photos=$(cd "$root" && echo opt/imgproxy/lib/python3*/site-packages/imgproxy/demo/photos)

say "start the embedded library and the edge, each in a read-only container of this image"
cp -a "$root/$photos" "$work/library/photos" && cp "$repo/tests/data/harbour.heic" "$work/library/photos/"
cat >"$work/library/photos/words.svg" <<'SVG'
<svg xmlns="http://www.w3.org/2000/svg" width="200" height="40"><text x="2" y="30" font-size="24">Wahlen</text></svg>
SVG
chown -R "${image_user}" "$work/library/photos"
(enter "$work/library" -- "${image_entrypoint[@]}" library /var/cache/imgproxy/photos --port "$library_port" --token "$token") \
  >"$work/library.log" 2>&1 &
started+=($!)
await 30 curl --silent --noproxy '*' "http://127.0.0.1:$library_port/" || { cat "$work/library.log" >&2; exit 1; }
start_edge edge

# The health check as a container runtime runs it: inside, with the container's environment.
health() {
  nsenter --target "$main" --mount --pid --root --wd -- /usr/bin/setpriv --reuid="${image_user%%:*}" --regid="${image_user##*:}" \
    --clear-groups /usr/bin/env --ignore-environment "${image_env[@]}" "IMGPROXY_SERVER__PORT=${1:-$edge_port}" "${image_health[@]:1}"
}
check "/-/health answers 200 from outside" curl --fail --silent --output /dev/null --noproxy '*' "$url/-/health"
check "the image's own health check exits 0 inside" health
no_health() { ! health 1 2>/dev/null; }
check "and 1 if nothing listens" no_health

say "who runs"
processes=$(family "$main")
each() { # each FUNCTION: whether it succeeds for every process of the edge
  local pid
  for pid in $processes; do "$1" "$pid" || return 1; done
}
status_of() { awk -v name="$2:" '$1 == name {$1 = ""; print substr($0, 2)}' "/proc/$1/status"; }
is_image_user() { [ "$(status_of "$1" Uid | cut -d' ' -f2)" = "${image_user%%:*}" ] && [ "$(status_of "$1" Gid | cut -d' ' -f2)" = "${image_user##*:}" ]; }
has_no_capability() { [ -z "$(for set in CapInh CapPrm CapEff CapBnd; do status_of "$1" $set; done | tr -d '0\n')" ] && [ "$(status_of "$1" NoNewPrivs)" = 1 ]; }
has_jemalloc() { grep -q libjemalloc "/proc/$1/maps"; }
printf '  processes   %s\n' "$(echo "$processes" | wc -w)"
check "PID 1 of its namespace" test "$(status_of "$main" NSpid | awk '{print $NF}')" = 1
check "every process is $image_user" each is_image_user
check "no capability, no new privileges" each has_no_capability
check "jemalloc is mapped into every process" each has_jemalloc

say "what it can write"
writable=$(nsenter --target "$main" --mount --root --wd -- /usr/bin/setpriv --reuid="${image_user%%:*}" --regid="${image_user##*:}" \
  --clear-groups /usr/bin/find / \( -path /proc -o -path /var/cache/imgproxy -o -path '/dev/[!s]*' \) -prune -o ! -type l -writable -print 2>/dev/null || true) # find exits with 1 if it may not read a directory
check "nothing but the volume and /dev/shm: ${writable:-nothing}" test "$writable" = /dev/shm
check "its root is mounted read-only" awk '$5 == "/" && $6 ~ /^ro/ {found = 1} END {exit !found}' "/proc/$main/mountinfo"

say "a picture"
get() { curl --silent --show-error --fail --noproxy '*' --header 'Accept: image/avif,image/webp,*/*' --dump-header "$work/headers" --output "$work/body" "$@"; }
is_webp_or_avif() { get "$url/2026/03/14/harbour-at-dusk.jpg?w=800&auto=format" && grep -qiE '^content-type: image/(webp|avif)' "$work/headers"; }
check "24 megapixels at w=800&auto=format come out" is_webp_or_avif
grep -iE '^(content-type|content-length|cache-status|server-timing):' "$work/headers" | sed 's/^/        /'
is_hit() { is_webp_or_avif && grep -qiE '^cache-status:.*; *hit' "$work/headers"; }
check "and from cache the second time" is_hit
is_jpeg_of_heic() { get "$url/harbour.heic?w=200&fm=jpg" && grep -qiE '^content-type: image/jpeg' "$work/headers"; }
check "a HEIC comes out" is_jpeg_of_heic
processes=$(family "$main")
check "every process still is $image_user with jemalloc" each has_jemalloc
check "and without privileges" each has_no_capability

say "fonts"
# Each line is a text that has to leave other pixels than a box: a letter of one font and script, and the one beside it.
inside() { # inside [VAR=VALUE...] -- COMMAND...: in a container of its own; its standard output is the result
  (enter "$work/fonts" "$@") 2>>"$work/fonts.log"
}
new_volume "$work/fonts"
font_check='
import itertools, sys
import pyvips

def draw(font, text):
    svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"400\" height=\"60\"><text y=\"40\" font-size=\"32\" font-family=\"%s\">%s</text></svg>"
    return pyvips.Image.svgload_buffer((svg % (font, text)).encode())

def width(font, text):
    left, top, wide, high = draw(font, text).extract_band(3).find_trim(threshold=0, background=0)
    return wide

bad = 0
for script, one, other in (("Latin", "A", "B"), ("German", "ß", "ü"), ("Greek", "α", "Ω"), ("Cyrillic", "Ж", "я"), ("Hebrew", "א", "ש"), ("Arabic", "ب", "ك"), ("quotes", "„", "»")):
    if draw("Arial", one).write_to_memory() == draw("Arial", other).write_to_memory():
        bad = print("boxes:", script) or 1
# Three families that differ from each other, and each like the font that it is known by.
names = {"Arial": "Liberation Sans", "Times New Roman": "Liberation Serif", "Courier New": "Liberation Mono", "Calibri": "Carlito", "Cambria": "Caladea"}
text = "Hamburgefonstiv WAVE 123"
for name, real in names.items():
    if draw(name, text).write_to_memory() != draw(real, text).write_to_memory():
        bad = print("not alike:", name, real) or 1
for one, other in itertools.combinations(names, 2):
    if width(one, text) == width(other, text):
        bad = print("the same font:", one, other) or 1
sys.exit(bad)
'
check "letters of seven scripts, and the metric-compatible families" inside -- /opt/imgproxy/bin/python -I -c "$font_check"
echo '<fontconfig><dir>/nowhere</dir></fontconfig>' >"$work/fonts/none.conf"
sees_boxes() { ! inside FONTCONFIG_FILE=/var/cache/imgproxy/none.conf -- /opt/imgproxy/bin/python -I -c "$font_check" >/dev/null; }
check "and this check fails where there are no fonts" sees_boxes
has_words() { get "$url/words.svg?fm=png&w=400" && grep -qi '^content-type: image/png' "$work/headers"; }
check "an SVG with text is rendered" has_words
says_nothing() { ! grep -q 'finds no font' "$work/edge.log"; }
check "the log warns of no missing fonts" says_nothing

say "memory: 24 megapixels rendered 40 times, then nothing"
highest=0 idle=0
work_and_rest() { # sets highest and idle, in MB
  local width second now
  highest=0
  for width in $(seq 600 100 2500); do
    get "$url/2026/03/14/harbour-at-dusk.jpg?w=$width&fm=jpg"
    get "$url/2026/03/14/harbour-at-dusk.jpg?w=$width&fm=webp"
    now=$(memory_mb "$main")
    [ "$now" -le "$highest" ] || highest=$now
  done
  idle=$highest
  for second in $(seq 20); do
    sleep 1
    idle=$(memory_mb "$main")
    [ $((idle * 3)) -gt $((highest * 2)) ] || [ "$second" -lt 10 ] || break
  done
}
work_and_rest
check "goes back to the system: $highest MB while rendering, $idle MB idle" test $((idle * 3)) -le $((highest * 2))

say "the end"
end() { # SIGTERM to PID 1; sets code
  code=0
  kill -TERM "$main"
  wait "$edge" || code=$?
}
end
check "SIGTERM ends it with 0 (was $code)" test "$code" = 0
start_edge glibc LD_PRELOAD=
work_and_rest
end
printf '  for comparison, with the C library'"'"'s allocator: %s MB while rendering, %s MB idle\n' "$highest" "$idle"
[ "$failed" = 0 ] || { say "the logs"; tail -n 20 "$work/library.log" "$work/edge.log" | cut -c1-400; }
exit "$failed"
