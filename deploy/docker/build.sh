#!/usr/bin/env bash
# Builds the image chord:VERSION (cpu) or chord:VERSION-cuda (cuda).
#
#   deploy/docker/build.sh cpu|cuda [BUILD OPTION...]
#
# ENGINE is docker, podman or buildah; by default the first that works. Options go to it, for example
# --build-arg BASE=registry.example/debian:12
set -euo pipefail
cd "$(dirname "$0")/../.."
variant=${1:?cpu or cuda}
shift
version=$(sed -n 's/^project(chord VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
tag="chord:$version"
if [[ "$variant" == cuda ]]; then tag+=-cuda; fi
if [[ -z "${ENGINE:-}" ]]; then
  for ENGINE in docker podman buildah ''; do
    if [[ -z "$ENGINE" ]]; then
      echo "No container engine answers: install docker, podman or buildah, or name one in ENGINE." >&2
      exit 1
    fi
    if "$ENGINE" info >/dev/null 2>&1; then break; fi
  done
fi
options=(-f deploy/docker/Dockerfile -t "$tag" --build-arg "VARIANT=$variant" --build-arg "VERSION=$version")
case "$ENGINE" in
  docker) DOCKER_BUILDKIT=1 exec docker build "${options[@]}" "$@" . ;;
  # The format with HEALTHCHECK.
  podman | buildah) exec "$ENGINE" build --format docker "${options[@]}" "$@" . ;;
  *) exec "$ENGINE" build "${options[@]}" "$@" . ;;
esac
