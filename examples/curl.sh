#!/usr/bin/env bash
# The HTTP API with curl: one request, events, an uploaded image, a conversation, a batch, an error.
#
#   examples/curl.sh [HTTP_ADDRESS [IMAGE [PROMPT]]]     needs a running Chord: make serve
set -euo pipefail
chord=http://${1:-127.0.0.1:8080}
image=${2:-$(dirname "$0")/../demo/farm.png}
prompt=${3:-find the tractor}

title() { printf '\n# %s\n' "$*"; }
json() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

title "One image, one prompt"
curl -fsS -F image=@"$image" -F prompt="$prompt" "$chord/api/ground"

title "Events as they come (server-sent events)"
curl -fsSN -F image=@"$image" -F prompt="$prompt" -F stream=true "$chord/api/ground"

title "Upload once, then refer to the image"
image_id=$(curl -fsS -F image=@"$image" "$chord/api/images" | json '["image_id"]')
curl -fsS -F image_id="$image_id" -F prompt="$prompt" "$chord/api/ground" | json '["usage"]["cache"]'

title "A conversation about it"
for turn in "$prompt" "$prompt"; do
  curl -fsS -F image_id="$image_id" -F session_id=example -F prompt="$turn" "$chord/api/ground" |
    json '["usage"]["prompt_tokens"]'
done

title "A batch: two prompts about the uploaded image"
curl -fsS -H 'Content-Type: application/json' "$chord/api/ground/batch" -d @- <<END
{"requests": [
  {"tag": "first", "image_id": "$image_id", "prompt": "$prompt"},
  {"tag": "second", "image_id": "$image_id", "prompt": "a ship"}]}
END

title "Delete the image"
curl -fsS -X DELETE -o /dev/null -w '%{http_code}\n' "$chord/api/images/$image_id"

title "A refusal: application/problem+json with a stable code and what to do"
curl -sS -F image_id="$image_id" -F prompt="$prompt" "$chord/api/ground"

title "Is it up, and could it answer now?"
curl -fsS "$chord/healthz"
curl -fsS "$chord/readyz"
