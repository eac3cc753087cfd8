#!/usr/bin/env bash
# Installs what Chord needs to be built, and nothing that is there already.
#
#   tools/setup.sh [--oracle] [--dev] [--ops] [--gpu]
#
#   (always)   Debian packages, and libtorch from the Python package into $CHORD_HOME/venv
#   --oracle   transformers and all of torch's dependencies, for the parity tests (about 5 GB), Chromium
#              with two fonts, for the browser tests (0.5 GB), and the wheels that the tests of the
#              clients install (150 MB in $CHORD_HOME/wheels)
#   --dev      clang-format, clang-tidy, libFuzzer, gcovr
#   --ops      nginx, Prometheus, logrotate, supervisord and docker-compose, for the tests of deploy/, and the
#              wheels that render and check its Kubernetes manifests (80 MB)
#   --gpu      all CUDA libraries and the compiler, as on a machine with a GPU: for images that are built
#              on one without
#
# With a GPU, or with CHORD_CUDA=1, also the CUDA compiler (unless the system has nvcc 13) and cuBLASLt,
# which libchord_cuda is built with. CHORD_CUDA=0 leaves them out.
#
# CHORD_HOME (default ~/.cache/chord) takes the environment and the logs. Needs root or sudo only when
# a package is missing. Made for Debian 12; other systems with apt may carry other versions.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/steps.sh
source tools/steps.sh

TORCH_VERSION=2.11.0
AXE_VERSION=0.1.8  # carries axe-core 4.12
# libtorch_cpu itself needs both, with or without a GPU.
CUDA_RUNTIME=(nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
# What libchord_cuda is built with: the compiler where the system has none, and cuBLASLt.
CUDA_COMPILER=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88)
CUDA_BLAS=nvidia-cublas==13.1.0.3

packages=(
  git make ca-certificates curl g++ cmake ninja-build ccache pkg-config python3 python3-venv
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev
  libopencv-core-dev libopencv-imgproc-dev libjpeg62-turbo-dev libpng-dev libwebp-dev
  prometheus-cpp-dev libspdlog-dev nlohmann-json3-dev libboost-dev libssl-dev libutf8proc-dev zlib1g-dev
  libcli11-dev libyaml-cpp-dev libfreetype-dev libfontconfig-dev fonts-droid-fallback
  libgtest-dev libgmock-dev fonts-noto-color-emoji
)
with_oracle=0
with_ops=0
gpu=0
for argument in "$@"; do
  case "$argument" in
    --oracle)
      with_oracle=1
      packages+=(chromium chromium-driver fonts-inter fonts-wqy-microhei)
      ;;
    --dev) packages+=(clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev gcovr) ;;
    --ops)
      with_ops=1
      packages+=(nginx-light prometheus logrotate supervisor docker-compose openssl)
      ;;
    --gpu) gpu=1 ;;
    *)
      sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
      exit 2
      ;;
  esac
done
steps_begin setup $((2 + with_oracle + with_ops))

# --- Debian packages -------------------------------------------------------------------------------
command -v apt-get >/dev/null ||
  fail "This set-up knows Debian and its kin (apt-get). Here, install these or their like by hand:" "${packages[*]}"

missing_packages() {
  local name
  for name in "${packages[@]}"; do
    [[ "$(dpkg-query -W -f '${Status}' "$name" 2>/dev/null)" == "install ok installed" ]] || echo "$name"
  done
}
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=600 "$@"
}
apt_install() { apt_get install -y --no-install-recommends "${missing[@]}"; }
# Package lists that are absent or old make an install fail; new ones cost time, so they come second.
install_packages() {
  if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || ! apt_install; then
    retry apt_get update
    retry apt_install
  fi
}

mapfile -t missing < <(missing_packages)
if ((${#missing[@]} == 0)); then
  step_done "System packages: all ${#packages[@]} present"
else
  as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      fail "Packages are missing and need root, and there is no sudo. As root, run:" "apt-get install -y ${missing[*]}"
    if [[ -t 0 ]]; then sudo -v; else sudo -n true 2>/dev/null; fi ||
      fail "Packages are missing and sudo was refused. As root, run:" "apt-get install -y ${missing[*]}"
    as_root=(sudo)
  fi
  step "System packages: installing ${#missing[@]} of ${#packages[@]} and what they need (apt)" install_packages
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]} == 0)) || fail "apt-get reported success, yet these are missing: ${missing[*]}" "See $CHORD_LOG"
fi

# --- libtorch --------------------------------------------------------------------------------------
venv="$CHORD_HOME/venv"
python="$venv/bin/python"
# A stamp holds what it was made for; a new version makes the step run again.
stamped() { [[ "$(cat "$venv/.chord-$1" 2>/dev/null)" == "$2" ]]; }
need_space() {
  local free
  free=$(($(df --output=avail -k "$CHORD_HOME" | tail -n 1) / 1000000))
  ((free >= $1)) || fail "$CHORD_HOME has $free GB free and needs $1; set CHORD_HOME to a folder with more room."
}
make_venv() {
  if ! "$python" -c 'import pip' 2>/dev/null; then
    rm -rf "$venv"
    python3 -m venv "$venv"
  fi
}
pip_install() {
  retry "$python" -m pip install --no-input --disable-pip-version-check --no-cache-dir --retries 5 \
    --only-binary :all: --progress-bar off "$@"
}
torch_lib() {
  "$python" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0] + "/lib")'
}
loads() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1"; }

# With a GPU all CUDA libraries that torch names are installed, whether or not a CUDA toolkit is there:
# toolkits lack cuDNN, NCCL and others, and a mixture of both is hard to support.
if compgen -G '/dev/nvidia[0-9]*' >/dev/null; then gpu=1; fi

install_libtorch() {
  make_venv
  pip_install --no-deps "torch==$TORCH_VERSION" "${CUDA_RUNTIME[@]}"
  if ((gpu)); then pip_install "torch==$TORCH_VERSION"; fi
  local lib
  lib=$(torch_lib)
  loads "$lib/libtorch_cpu.so"
  if ((gpu)) && ! loads "$lib/libtorch_cuda.so"; then
    echo "libtorch_cuda cannot be loaded: Chord will compute on the CPU"
  fi
  printf '%s' "$libtorch_spec" >"$venv/.chord-libtorch"
}

mkdir -p "$CHORD_HOME" || fail "Cannot write to $CHORD_HOME; set CHORD_HOME to a folder of yours."
libtorch_spec="torch==$TORCH_VERSION ${CUDA_RUNTIME[*]} gpu=$gpu"
if stamped libtorch "$libtorch_spec" && compgen -G "$venv/lib/python3*/site-packages/torch/lib/libtorch_cpu.so" >/dev/null; then
  step_done "libtorch $TORCH_VERSION: present"
elif ((gpu)); then
  need_space 8
  step "libtorch $TORCH_VERSION with CUDA: 2.5 GB to download (pip)" install_libtorch
else
  need_space 3
  step "libtorch $TORCH_VERSION: 0.6 GB to download (pip)" install_libtorch
fi

# --- CUDA compiler -----------------------------------------------------------------------------------
# cmake/CudaPlugin.cmake looks in the same places.
system_nvcc() {
  local nvcc
  for nvcc in "${CUDACXX:-}" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" nvcc; do
    if [[ -n "$nvcc" ]] && "$nvcc" --version 2>/dev/null | grep -q 'release 13\.'; then return 0; fi
  done
  return 1
}
install_cuda_compiler() {
  pip_install --no-deps "${cuda_packages[@]}"
  printf '%s' "${cuda_packages[*]}" >"$venv/.chord-cuda"
}
if [[ "${CHORD_CUDA:-$gpu}" == 1 ]]; then
  cuda_packages=("$CUDA_BLAS")
  if ! system_nvcc; then cuda_packages+=("${CUDA_COMPILER[@]}"); fi
  if stamped cuda "${cuda_packages[*]}"; then
    note "CUDA compiler and cuBLASLt: present"
  else
    need_space 3
    note "Installing ${cuda_packages[*]}"
    install_cuda_compiler >>"$CHORD_LOG" 2>&1 || fail "The CUDA compiler could not be installed." "See $CHORD_LOG"
  fi
fi

# --- Oracle ----------------------------------------------------------------------------------------
install_oracle() {
  pip_install -r tools/requirements-oracle.txt
  pip_install --no-deps "axe-playwright-python==$AXE_VERSION"
  "$python" -c 'import torch, torchvision, transformers; print(torch.__version__, transformers.__version__)'
  rm -rf "$CHORD_HOME/wheels" # wheels of earlier versions would be found too
  retry "$python" -m pip download --no-input --disable-pip-version-check --retries 5 --only-binary :all: \
    --progress-bar off -r tools/requirements-clients.txt -d "$CHORD_HOME/wheels"
  printf '%s' "$oracle_spec" >"$venv/.chord-oracle"
}
if ((with_oracle)); then
  oracle_spec="$(cat tools/requirements-oracle.txt tools/requirements-clients.txt | sha256sum) axe=$AXE_VERSION"
  if stamped oracle "$oracle_spec"; then
    step_done "Oracle (transformers): present"
  else
    need_space 8
    step "Oracle (transformers and all of torch): 2.5 GB to download (pip)" install_oracle
  fi
fi

# --- Operations ------------------------------------------------------------------------------------
install_ops() {
  pip_install -r tools/requirements-ops.txt
  printf '%s' "$ops_spec" >"$venv/.chord-ops"
}
if ((with_ops)); then
  ops_spec="$(sha256sum <tools/requirements-ops.txt)"
  if stamped ops "$ops_spec"; then
    step_done "Helm engine and Kubernetes schemas: present"
  else
    step "Helm engine and Kubernetes schemas: 80 MB to download (pip)" install_ops
  fi
fi
