#!/usr/bin/env bash
# The gRPC API with grpcurl (https://github.com/fullstorydev/grpcurl), which learns it by server reflection.
#
#   examples/grpcurl.sh [GRPC_ADDRESS [IMAGE [PROMPT]]]     needs a running Chord: make serve
set -euo pipefail
chord=${1:-127.0.0.1:50051}
image=${2:-$(dirname "$0")/../demo/farm.png}
prompt=${3:-find the tractor}
command -v grpcurl >/dev/null || {
  echo "grpcurl is not installed." >&2
  exit 1
}

grpcurl -plaintext "$chord" list
grpcurl -plaintext "$chord" describe chord.v1.Grounding
grpcurl -plaintext -d '{"service": "chord.v1.Grounding"}' "$chord" grpc.health.v1.Health/Check
# @: the message comes from stdin, since an image is larger than a command line may be.
python3 -c '
import base64, json, sys
image = base64.b64encode(open(sys.argv[1], "rb").read()).decode()
print(json.dumps({"image": image, "prompt": sys.argv[2]}))' "$image" "$prompt" |
  grpcurl -plaintext -d @ "$chord" chord.v1.Grounding/Ground
