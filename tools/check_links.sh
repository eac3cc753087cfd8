#!/usr/bin/env bash
# The programs that hold no weights load neither torch nor CUDA, and no program loads OpenCV's image codecs,
# which bring 139 libraries along.
#
#   tools/check_links.sh BIN_FOLDER
set -euo pipefail
bin=$1
status=0
check() { # program, extended regular expression of libraries it may not load
  local found
  found=$(ldd "$bin/$1" | grep -oE "lib($2)[^ ]*" | sort -u | tr '\n' ' ' || true)
  if [[ -n "$found" ]]; then
    echo "$1 loads $found"
    status=1
  fi
}
codecs='opencv_imgcodecs|opencv_highgui|gdal|gdcm|OpenEXR'
compute='torch|c10|cuda|cudart|cublas|nvidia'
check chord_gateway "$compute|$codecs|opencv"
check chord "$compute|$codecs"
check chord_vision_worker "torch_cuda|$codecs"
check chord_llm_worker "torch_cuda|$codecs"
exit $status
