#!/usr/bin/env bash
# Fits chord-nano's confidence map anew and measures it on scenes that it was not fitted on: draws both
# sets of hard scenes, asks a server of this build, writes models/chord-nano/confidence.json, the curve
# docs/confidence.png and the tables of docs/confidence.md. About 15 minutes on two free cores.
#
#   tools/calibrate_nano.sh [BIN_FOLDER]      (default build/bin)
#
# WORK (default out/calibrate) takes scenes and logs; scenes that are there are used again.
# FIT and TEST (2000 each) are numbers of scenes, multiples of 80 so that every difficulty meets every
# kind of prompt equally often. PARALLEL (4): prompts under way together. PYTHON: with Pillow and numpy.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/steps.sh
source tools/steps.sh

bin=$(realpath -- "${1:-build/bin}")
work=$(realpath -m -- "${WORK:-out/calibrate}")
fit=${FIT:-2000} test=${TEST:-2000} parallel=${PARALLEL:-4}
python=${PYTHON:-$CHORD_HOME/venv/bin/python}
model=models/chord-nano
[[ -x "$bin/chord" ]] || fail "There is no chord in $bin; build it first (make build)."
[[ -x "$python" ]] || fail "There is no $python; run tools/setup.sh --oracle, or set PYTHON."
mkdir -p "$work"
steps_begin calibrate_nano 4

server=
stop_server() {
  [[ -n "$server" ]] || return 0
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}

# `chord serve` says where it listens once it is ready. Each step is a shell of its own, whose end
# ends its server.
start_server() { # model folder
  trap stop_server EXIT
  mkfifo "$work/ready.$$"
  "$bin/chord" serve --model "$1" --http 127.0.0.1:0 --grpc 127.0.0.1:0 \
    >"$work/ready.$$" 2>>"$work/server.log" </dev/null &
  server=$!
  exec 3<"$work/ready.$$"
  rm "$work/ready.$$"
  local line
  grpc=
  while read -r -t 120 -u 3 line; do
    if [[ "$line" =~ ^gRPC\ +([^ ]+)$ ]]; then
      grpc=${BASH_REMATCH[1]}
      return 0
    fi
  done
  echo "chord serve did not become ready; see $work/server.log"
  return 1
}

draw() { # set, number of scenes
  local out="$work/$1-$2"
  [[ -e "$out/scenes.json" ]] && return 0
  PYTHONPATH=tools "$python" -m train_nano scenes --hard --out "$out.part" --count "$2" --seed "calibrate/$1"
  rm -rf "$out"
  mv "$out.part" "$out"
}
draw_both() {
  draw fit "$fit" &
  local other=$!
  draw test "$test"
  wait "$other"
}

calibrate() {
  start_server "$model"
  "$bin/chord" calibrate "$work/fit-$fit" --model "$model" --server "$grpc" --parallel "$parallel" \
    --timeout 300 --out "$work/confidence.json" >"$work/fit.md"
  cp "$work/confidence.json" "$model/confidence.json"
}

evaluate() {
  start_server "$model"
  "$bin/chord" eval "$work/test-$test" --server "$grpc" --parallel "$parallel" --timeout 300 \
    --plot docs/confidence.png >"$work/test.md"
  grep -q 'calibrated confidences' "$work/test.md"
}

# Between the two marks of the page.
write_tables() {
  "$python" - docs/confidence.md "$work/fit.md" "$work/test.md" <<'PYTHON'
import re, sys
page, fit, test = sys.argv[1:]
text = open(page, encoding="utf-8").read()
fit = re.sub(r"\n\nWritten to .*", "", open(fit, encoding="utf-8").read().strip())
test = open(test, encoding="utf-8").read().strip()
tables = f"Fitted on:\n\n{fit}\n\nMeasured on other scenes:\n\n{test}"
new, count = re.subn(r"(<!-- tables:.*?-->\n).*?(\n<!-- end of tables -->)",
                     lambda m: f"{m[1]}\n{tables}\n{m[2]}", text, flags=re.S)
assert count == 1, "docs/confidence.md has lost its marks"
open(page, "w", encoding="utf-8").write(new)
PYTHON
}

step "Draw $fit + $test hard scenes" draw_both
step "Ask about $fit scenes and fit $model/confidence.json" calibrate
step "Measure on the other $test scenes, with the map" evaluate
step "Write the tables and the curve of docs/confidence.md" write_tables
cat "$work/fit.md" "$work/test.md"
