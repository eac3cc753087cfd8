#!/usr/bin/env bash
# Style and structure, without changing a file. `--fix` formats instead.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t sources < <(git ls-files --cached --others --exclude-standard '*.h' '*.cc' '*.cu' '*.cuh' '*.js')
if [[ "${1:-}" == --fix ]]; then
  exec clang-format-14 -i "${sources[@]}"
fi
status=0
clang-format-14 --dry-run --Werror "${sources[@]}" || status=1
tools/check_includes.py || status=1
tools/check_words.py || status=1
tools/check_citations.py || status=1
if command -v shellcheck >/dev/null; then
  shellcheck -x -P . tools/*.sh deploy/docker/*.sh .ci/run || status=1
fi
bin=${BUILD:-build}/bin
if [[ -x "$bin/chord_gateway" ]]; then
  tools/check_links.sh "$bin" || status=1
else
  echo "link check skipped: $bin/chord_gateway is not built"
fi
exit $status
