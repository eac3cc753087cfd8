# The short way to everything; `make` alone lists it. The work is done by CMake (CMakePresets.json) and
# by the scripts in tools/, which can be used without make as well.
#
# PRESET=dev  BUILD=build  JOBS=<processors, as memory allows>  LABEL=<test labels>  TESTS=<test names>
export PRESET BUILD JOBS LABEL TESTS FILES
MAKEFLAGS += --no-print-directory
BUILD_FOLDER := $(or $(BUILD),build)
PREFIX ?= /usr/local

.PHONY: help demo serve test build setup install image manifests lint format tidy asan tsan fuzz coverage clean distclean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

demo: ## set up, build, ask about the bundled images, draw the boxes, stop
	@tools/dev.sh demo

serve: ## the same, and stay
	@tools/dev.sh serve

test: ## set up (with the oracle), build, run every test (LABEL=unit, TESTS=regex choose)
	@tools/dev.sh test

build: ## set up and build everything (PRESET=release, ...)
	@tools/dev.sh build

setup: ## install what is missing, nothing else
	@tools/setup.sh

install: build ## programs, libtorch and chord-nano to PREFIX (/usr/local)
	cmake --install $(BUILD_FOLDER) --prefix $(PREFIX)

image: ## container image chord:VERSION (CUDA=1: chord:VERSION-cuda; ENGINE=docker|podman|buildah)
	@deploy/docker/build.sh $(if $(CUDA),cuda,cpu)

manifests: ## deploy/kubernetes from the Helm chart
	@tools/setup.sh --ops
	@$(or $(CHORD_HOME),$(HOME)/.cache/chord)/venv/bin/python tools/render_manifests.py

lint: ## formatting, include order, what the programs link
	@tools/setup.sh --dev
	@BUILD=$(BUILD_FOLDER) tools/lint.sh

format: ## format the sources
	@tools/setup.sh --dev
	@tools/lint.sh --fix

tidy: ## clang-tidy (FILES=regex chooses)
	@tools/dev.sh tidy

asan: ## unit tests under the address and undefined-behaviour sanitizers
	@PRESET=asan-ubsan LABEL=unit tools/dev.sh test

tsan: ## unit tests under the thread sanitizer
	@PRESET=tsan LABEL=unit tools/dev.sh test

fuzz: ## fuzz TARGET for SECONDS (60)
	@tools/dev.sh fuzz "$(TARGET)" $(SECONDS)

coverage: ## line coverage of the unit tests
	@tools/dev.sh coverage

clean: ## remove the build folders and what the demo wrote
	rm -rf build build-* out

distclean: clean ## and the environment with libtorch
	rm -rf $(or $(CHORD_HOME),$(HOME)/.cache/chord)/venv
