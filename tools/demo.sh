#!/usr/bin/env bash
# Starts the three processes with chord-nano, grounds the prompts of demo/scenes.json, draws the boxes.
# With `serve` it then serves until Ctrl-C; with `demo` it stops what it started.
#
#   tools/demo.sh BIN_FOLDER demo|serve
#
# HTTP_PORT (8080) and GRPC_PORT (50051) are where it begins to look for free ports.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/steps.sh
source tools/steps.sh

bin=$1
mode=$2
out=out/demo
steps_begin "$mode" 2

free_port() { # the first one without a listener
  local port=$1
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  echo "$port"
}

server=
stop_server() {
  [[ -n "$server" ]] || return 0
  kill -TERM "$server" 2>/dev/null || true
  for _ in {1..150}; do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

wait_until_ready() {
  local deadline=$((SECONDS + 120))
  until curl -fsS -o /dev/null --max-time 5 "http://$http/readyz" 2>/dev/null; do
    if ! kill -0 "$server" 2>/dev/null; then
      echo "chord serve ended by itself"
      return 1
    fi
    if ((SECONDS >= deadline)); then
      echo "not ready after 120 s"
      return 1
    fi
    sleep 0.1
  done
}

prompts() { # file, language, prompt; tab-separated
  python3 -c '
import json
for row in json.load(open("demo/scenes.json", encoding="utf-8")):
    print(row["file"], row["lang"], row["prompt"], sep="\t")'
}

http=127.0.0.1:$(free_port "${HTTP_PORT:-8080}")
grpc=127.0.0.1:$(free_port "${GRPC_PORT:-50051}")
# A session of its own: Ctrl-C reaches this script alone, which then stops the server in order.
setsid "$bin/chord" serve --model models/chord-nano --http "$http" --grpc "$grpc" >>"$CHORD_LOG" 2>&1 </dev/null &
server=$!
step "Start gateway, vision_worker and llm_worker with chord-nano" wait_until_ready

summary() { # one line for an answer's JSON
  python3 -c '
import json, sys
answer = json.load(open(sys.argv[1], encoding="utf-8"))
found = ["{} {:.2f} {}{}".format(o["label"], o["confidence"], o["box"], " (review)" if o["needs_review"] else "")
         for o in answer["objects"]]
print("   " + ("; ".join(found) or "not there {:.2f}".format(answer.get("confidence", 0))))' "$1"
}

step_done "Ground the prompts of demo/scenes.json"
mkdir -p "$out"
number=0
while IFS=$'\t' read -r file lang prompt; do
  number=$((number + 1)) last_file=$file last_prompt=$prompt
  name="$out/$(printf '%02d' "$number")_${file%.*}_$lang"
  printf 'demo/%s  "%s"\n' "$file" "$prompt"
  "$bin/chord" ground "demo/$file" "$prompt" --server "$grpc" --annotate "$name.png" --json \
    >"$name.json" </dev/null
  summary "$name.json"
done < <(prompts)
((number > 0)) || fail "demo/scenes.json has no prompts."

try_it() {
  cat <<END
  curl -F image=@demo/${last_file} -F "prompt=${last_prompt}" http://$http/api/ground
END
}

printf '\nAnnotated images and whole answers: %s/ (%s of each).\n' "$out" "$number"
if [[ "$mode" == serve ]]; then
  printf 'Page: http://%s/  HTTP: http://%s/api/ground  gRPC: %s\nTry it:\n' "$http" "$http" "$grpc"
  try_it
  note "Serving; Ctrl-C stops it. Log: $CHORD_LOG"
  trap 'stop_server; note "Stopped."; exit 0' INT TERM
  wait "$server" || fail "chord serve ended with exit code $?; see $CHORD_LOG"
else
  stop_server
  note "Stopped. \`make serve\` does the same and keeps serving; then try it yourself:"
  try_it
fi
