# shellcheck shell=bash
# Sourced by the other tools: numbered steps with the time passed; what a command prints goes to a log.
#
#   steps_begin NAME COUNT   opens the log $CHORD_HOME/logs/NAME.log and sets the number of steps
#   step TITLE COMMAND...    runs COMMAND; a line every 30 s tells how far it is (on a terminal: live)
#   step_done TITLE          a step that has nothing to do this time
#   note TEXT                a line with the time in front
#   fail TEXT...             the reason on stderr, a line each; exit 1
#
# A tool that calls another one hands over CHORD_STEP, CHORD_STEPS, CHORD_T0 and CHORD_LOG, so that
# numbers, times and the log go on across processes.

CHORD_HOME=$(realpath -m -- "${CHORD_HOME:-${HOME:?HOME is not set}/.cache/chord}")
export CHORD_HOME

seconds_passed() { echo $(($(date +%s) - CHORD_T0)); }

note() { printf '[%4d s] %s\n' "$(seconds_passed)" "$*"; }

fail() {
  printf 'chord: %s\n' "$@" >&2
  exit 1
}

steps_begin() {
  export CHORD_T0="${CHORD_T0:-$(date +%s)}" CHORD_STEP="${CHORD_STEP:-0}" CHORD_STEPS="${CHORD_STEPS:-$2}"
  if [[ -z "${CHORD_LOG:-}" ]]; then
    mkdir -p "$CHORD_HOME/logs" || fail "Cannot write to $CHORD_HOME; set CHORD_HOME to a folder of yours."
    export CHORD_LOG="$CHORD_HOME/logs/$1.log"
    : >"$CHORD_LOG"
  fi
}

step_done() {
  CHORD_STEP=$((CHORD_STEP + 1))
  note "[$CHORD_STEP/$CHORD_STEPS] $1"
}

# The last line of the log, cut to a width.
log_tail() {
  tail -c 2000 "$CHORD_LOG" | tr '\r' '\n' | tr -cd '[:print:]\n' | grep -v '^ *$' | tail -n 1 | cut -c "1-$1"
}

step_watch() {
  if [[ -t 1 ]]; then
    local columns
    columns=$(tput cols 2>/dev/null || echo 80)
    while sleep 1 && kill -0 $$; do
      printf '\r\033[K[%4d s]   %s' "$(seconds_passed)" "$(log_tail $((columns - 14)))"
    done
  else
    while sleep 30 && kill -0 $$; do note "      ... $(log_tail 70)"; done
  fi
}

step() {
  local title=$1 started=$SECONDS rc watcher from
  shift
  step_done "$title"
  printf '\n==== %s\n' "$title" >>"$CHORD_LOG"
  from=$(wc -l <"$CHORD_LOG")
  step_watch 2>/dev/null &
  watcher=$!
  # Not `command || rc=$?`, which would switch off -e inside.
  set +e
  (set -e; "$@") >>"$CHORD_LOG" 2>&1 </dev/null
  rc=$?
  set -e
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" 2>/dev/null || true
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
  if ((rc != 0)); then
    tail -n +"$((from + 1))" "$CHORD_LOG" | tail -n 20 | cut -c 1-200 >&2
    fail "'$title' failed with exit code $rc after $((SECONDS - started)) s." \
      "All it printed is in $CHORD_LOG; docs/troubleshooting.md lists what is known to go wrong."
  fi
  if ((SECONDS - started >= 5)); then note "      done in $((SECONDS - started)) s"; fi
}

# Runs a command up to three times, for what depends on a network.
retry() {
  local attempt
  for attempt in 1 2 3; do
    "$@" && return 0
    echo "attempt $attempt of 3 failed: $*"
    ((attempt == 3)) || sleep $((attempt * 5))
  done
  return 1
}

# How many compilers may run at once: as many as processors, as long as each finds 1.5 GB. JOBS overrides.
job_limit() {
  local jobs kb limit
  jobs=$(nproc)
  kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [[ "$limit" =~ ^[0-9]+$ ]] && ((limit / 1024 < kb)); then kb=$((limit / 1024)); fi
  if ((kb / 1500000 < jobs)); then jobs=$((kb / 1500000)); fi
  if ((jobs < 1)); then jobs=1; fi
  echo "${JOBS:-$jobs}"
}
