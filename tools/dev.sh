#!/usr/bin/env bash
# What the Makefile's targets do. Each starts with what is missing and skips what is done.
#
#   tools/dev.sh build|test|demo|serve|tidy|coverage
#   tools/dev.sh fuzz TARGET [SECONDS]
#
# PRESET (default dev) is one of CMakePresets.json, BUILD its folder (default build, or build-PRESET),
# JOBS how many compilers run at once, LABEL and TESTS regular expressions that choose tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/steps.sh
source tools/steps.sh
export NINJA_STATUS='[%f/%t] '

use_preset() {
  PRESET=$1
  if [[ "$PRESET" == dev ]]; then BUILD=${BUILD:-build}; else BUILD=${BUILD:-build-$PRESET}; fi
}
use_preset "${PRESET:-dev}"

set_up() { # what setup.sh takes; its steps count here
  export CHORD_STEP
  tools/setup.sh "$@"
  CHORD_STEP=$((CHORD_STEP + 2))
  if [[ " $* " == *" --oracle "* ]]; then CHORD_STEP=$((CHORD_STEP + 1)); fi
}

build() { # targets
  # The parity and process tests are there only when the oracle was at the time of configuring.
  if [[ -e "$BUILD/build.ninja" && "$BUILD/build.ninja" -nt CMakePresets.json &&
    ! "$CHORD_HOME/venv/.chord-oracle" -nt "$BUILD/build.ninja" ]]; then
    step_done "Configure: done ($BUILD)"
  else
    step "Configure (cmake, preset $PRESET, into $BUILD)" cmake --preset "$PRESET" -B "$BUILD"
  fi
  step "Build (ninja, $(job_limit) at once)" ninja -C "$BUILD" -j "$(job_limit)" "$@"
}

run_tests() { # ctest's arguments
  step_done "Test (ctest)"
  ctest --test-dir "$BUILD" --output-on-failure --no-tests=error -j "$(job_limit)" \
    ${LABEL:+-L "$LABEL"} ${TESTS:+-R "$TESTS"} </dev/null
}

case "${1:-}" in
  build)
    steps_begin build 4
    set_up
    build all
    ;;
  test)
    if [[ "${LABEL:-}" == unit ]]; then
      steps_begin test 5
      set_up
    else
      steps_begin test 6
      set_up --oracle
    fi
    build all
    run_tests
    ;;
  demo | serve)
    steps_begin "$1" 6
    set_up
    build services/all
    export CHORD_STEP
    exec tools/demo.sh "$BUILD/bin" "$1"
    ;;
  tidy)
    steps_begin tidy 5
    set_up --dev
    build all # generated headers have to be there
    step_done "clang-tidy on ${FILES:=$PWD/(common|services)/.*}"
    run-clang-tidy-14 -quiet -p "$BUILD" -j "$(job_limit)" -extra-arg=-Wno-unknown-warning-option "$FILES"
    ;;
  coverage)
    use_preset coverage
    steps_begin coverage 6
    set_up --dev
    build all
    LABEL=unit run_tests
    mkdir -p "$BUILD/coverage"
    gcovr --root . --filter 'common/' --filter 'services/' --exclude-unreachable-branches \
      --html-details "$BUILD/coverage/index.html" --print-summary "$BUILD"
    note "By file: $BUILD/coverage/index.html"
    ;;
  fuzz)
    use_preset fuzz
    target=${2:?name a fuzz target; they are in tests/fuzz}
    steps_begin fuzz 5
    set_up --dev
    build "$target"
    mkdir -p "$BUILD/found/$target"
    step_done "Fuzz for ${3:-60} s; findings go to $BUILD/found/$target"
    "$BUILD/fuzz/$target" -max_total_time="${3:-60}" -timeout=10 -rss_limit_mb=2048 \
      -artifact_prefix="$BUILD/found/$target/crash-" "$BUILD/found/$target" "$(<"$BUILD/fuzz/$target.corpus")"
    ;;
  *)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
