#!/usr/bin/env bash
# Starts the three processes with chord-nano, asks about the images in demo/, draws the boxes.
# With `serve` it then stays until Ctrl-C; with `demo` it stops all it started.
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

free_port() { # the first one nobody listens on
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

step_done "Ask about the images in demo/"
mkdir -p "$out"
number=0
while IFS=$'\t' read -r file lang prompt; do
  number=$((number + 1)) last_file=$file last_prompt=$prompt
  annotated="$out/$(printf '%02d' "$number")_${file%.*}_$lang.png"
  printf '\n%s  "%s"\n' "demo/$file" "$prompt"
  "$bin/chord" ground "demo/$file" "$prompt" --server "$grpc" --annotate "$annotated" --json </dev/null
done < <(prompts)
((number > 0)) || fail "demo/scenes.json has no prompts."

cat <<END

The boxes are drawn in $out/ ($number images).
The API: http://$http/api/ground and gRPC chord.v1.Grounding at $grpc. Ask it yourself:
  curl -F image=@demo/${last_file} -F "prompt=${last_prompt}" http://$http/api/ground

END
if [[ "$mode" == serve ]]; then
  note "Serving; Ctrl-C stops it. The processes log to $CHORD_LOG"
  wait "$server" || fail "chord serve ended with exit code $?; see $CHORD_LOG"
else
  stop_server
  note "Stopped. \`make serve\` does the same and stays."
fi
