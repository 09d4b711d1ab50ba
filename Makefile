# Every target that builds makes the set-up first (scripts/setup), so `make demo` and `make test` need nothing before them.
# There is one cargo profile, release: the C++ of torch-sys takes minutes, and is compiled once.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Rust may be there and not yet on the PATH, as after rustup in this very shell.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/osdd
DATA := $(or $(XDG_DATA_HOME),$(HOME)/.local/share)
PLUGIN_DIR := $(DATA)/gstreamer-1.0/plugins
BIN_DIR := $(HOME)/.local/bin
MODEL_DIR := $(DATA)/osdd/models

# cargo runs build scripts in each crate's own folder, so a relative LIBTORCH would mean something else there.
ifneq ($(LIBTORCH),)
override LIBTORCH := $(abspath $(LIBTORCH))
export LIBTORCH
else
unexport LIBTORCH
endif

# Continuous integration builds a fresh clone each time. The dependencies stay in one target folder for all of them, which
# needs a LIBTORCH that is spelled the same in each clone; half-compiled state of earlier clones is of no use.
ifneq ($(filter-out 0 false,$(CI)),)
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_INCREMENTAL ?= 0
CARGO = LIBTORCH="$$(realpath .libtorch)" cargo
LOCKED := --locked
else
unexport CI
CARGO = cargo
LOCKED :=
endif

RELEASE := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release
# The demo and the benchmark run what was just built, ahead of an installed plugin.
WITH_PLUGIN = GST_PLUGIN_PATH="$(RELEASE)$${GST_PLUGIN_PATH:+:$$GST_PLUGIN_PATH}"

.PHONY: help setup build test lint demo bench install uninstall clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{ printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "LIBTORCH=/path make ... builds with that libtorch instead of the one in $(CACHE)"

setup: ## install what is missing: apt packages, libtorch, Rust crates
	@scripts/setup

build: setup ## build the library, the plugin, the tool and the examples
	@echo "build: cargo build --release --workspace"
	@$(CARGO) build --release --workspace --examples --bins --lib $(LOCKED)

test: build ## run all tests
	@echo "test: cargo test --release --workspace"
	@$(CARGO) test --release --workspace $(LOCKED)

lint: setup ## check formatting, and clippy without warnings
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || { \
	    echo "lint: error: rustfmt or clippy is missing; install them with 'rustup component add rustfmt clippy'." >&2; exit 1; }
	@echo "lint: cargo fmt --all --check"
	@cargo fmt --all --check
	@echo "lint: cargo clippy --release --workspace --all-targets"
	@$(CARGO) clippy --release --workspace --all-targets $(LOCKED) -- -D warnings

demo: build ## deblur a made scene, or INPUT=my.mp4, into out/demo
	@echo "demo: writing to out/demo"
	@$(WITH_PLUGIN) "$(RELEASE)/examples/demo" --out out/demo $(if $(INPUT),--input "$(INPUT)") $(ARGS)

bench: build ## measure frames per second (ARGS="--size 1280x720", ARGS=--all and so on)
	@$(WITH_PLUGIN) OSDD_MODELS="$${OSDD_MODELS:-$(CURDIR)/models}" "$(RELEASE)/osdd" bench $(ARGS)

install: build ## put the plugin, the tool and the model small into the user's own folders
	@scripts/install "$(RELEASE)" "$(PLUGIN_DIR)" "$(BIN_DIR)" "$(MODEL_DIR)"

uninstall: ## remove what `make install` put there
	@scripts/uninstall "$(PLUGIN_DIR)" "$(BIN_DIR)" "$(MODEL_DIR)"

clean: ## remove what was built and made here; libtorch stays in the cache
	@echo "clean: $(dir $(RELEASE)) and out/"
	@cargo clean --quiet $(if $(CI),-p osdd -p gst-plugin-osdd)
	@rm -rf out
