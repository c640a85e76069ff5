# `make` lists the targets. Everything is built with the dev profile, which compiles dependencies with optimisation.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.SILENT:
.PHONY: help demo test torture fuzz train-test setup tools lint docs

REQUIREMENTS := tests/readers/requirements.txt jobs/requirements.txt
INSTALLED := .venv/.installed

# Where nightcap finds ONNX Runtime, and the tests the Python with DuckDB and Polars. Wildcards are left to the shell,
# because make would look before setup has run.
ENVIRONMENT = export NIGHTCAP_PYTHON="$(CURDIR)/.venv/bin/python"; \
	library=("$(CURDIR)"/.venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*); \
	export ORT_DYLIB_PATH="$${ORT_DYLIB_PATH:-$${library[0]}}";

help: ## list the targets
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: setup ## caption the sample photographs and print the captions
	cargo build --locked
	$(ENVIRONMENT) cargo run --quiet --locked -- run jobs/sample.toml
	.venv/bin/python tests/readers/show_captions.py out/sample

test: setup ## run every test
	$(ENVIRONMENT) log="$$(mktemp)"; trap 'rm -f "$$log"' EXIT; status=0; \
	cargo test --locked --no-fail-fast | tee "$$log" || status=$$?; \
	awk '/^test result:/ { passed += $$4; failed += $$6; skipped += $$8 } /skipped: / { passed -= 1; skipped += 1 } \
		END { printf "\ntests: %d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$$log"; \
	if [ "$$status" != 0 ]; then echo "make test: failed, see above" >&2; exit "$$status"; fi

torture: setup ## kill, suspend and race commands: 40 kills and 200 meetings on disk, 40 and 60 on S3, every place named, and 20000 simulated meetings
	$(ENVIRONMENT) NIGHTCAP_TORTURE=10 NIGHTCAP_SEEDS=20000 cargo test --locked --test it -- --nocapture \
		killed_at_random killed_on_s3_at_random commands_that_meet suspensions no_order_of_operations

# Minutes for all entry points together; TARGET names one of them.
MINUTES ?= 60
TARGET ?=
fuzz: setup ## give damaged input to everything that reads, for MINUTES=60
	$(ENVIRONMENT) if ! cargo +nightly --version >/dev/null 2>&1 || ! cargo fuzz --version >/dev/null 2>&1; then \
		echo "fuzz: libFuzzer needs a nightly toolchain and cargo-fuzz; without them, the stable driver of tests/fuzz runs"; \
		NIGHTCAP_FUZZ_MINUTES="$(MINUTES)" NIGHTCAP_FUZZ_TARGET="$(TARGET)" \
			cargo test --locked --lib -- --nocapture fuzz::driver::corpora_and_inputs_made_of_them_do_no_harm; exit; \
	fi; \
	cp Cargo.lock fuzz/Cargo.lock; targets="$(TARGET)"; targets="$${targets:-$$(cargo +nightly fuzz list)}"; \
	seconds=$$(($(MINUTES) * 60 / $$(wc -w <<<"$$targets"))); \
	for target in $$targets; do \
		mkdir -p "fuzz/corpus/$$target" "tests/fuzz/crashes/$$target"; \
		cargo +nightly fuzz run --sanitizer none "$$target" "fuzz/corpus/$$target" "tests/fuzz/corpus/$$target" \
			"tests/fuzz/crashes/$$target" -- -max_total_time="$$seconds" -timeout=30 -rss_limit_mb=4096 -max_len=65536; \
	done

# PyTorch and what else jobs/train needs, about 5 GB, in a venv of its own in the user's cache, which all checkouts share.
TRAIN_REQUIREMENTS := jobs/train/requirements.txt jobs/train/requirements-test.txt
TRAIN_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nightcap/train-venv

train-test: setup ## lint and type jobs/, train a toy of every block and run it with nightcap
	venv="$(TRAIN_VENV)-$$(cat $(TRAIN_REQUIREMENTS) | sha256sum | cut -c1-12)"; \
	if [ ! -e "$$venv/.installed" ]; then \
		echo "train-test: installing PyTorch into $$venv"; \
		.venv/bin/python -m venv --clear "$$venv"; \
		"$$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
			$(addprefix -r ,$(TRAIN_REQUIREMENTS)); \
		touch "$$venv/.installed"; \
	fi; \
	cargo build --locked; \
	"$$venv/bin/ruff" check --quiet jobs; \
	(cd jobs && "$$venv/bin/mypy" --python-executable "$$venv/bin/python" train export); \
	$(ENVIRONMENT) export NIGHTCAP="$${CARGO_TARGET_DIR:-$(CURDIR)/target}/debug/nightcap" OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive; \
	"$$venv/bin/python" -W ignore -m unittest discover -s jobs/train -t jobs/train

lint: setup ## check formatting and run clippy
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings

docs: setup ## build the API documentation, private items included
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --document-private-items

setup: $(INSTALLED) ## check the tools and install ONNX Runtime, DuckDB and Polars into .venv

# cmake and nasm build libjpeg-turbo; without nasm it would have no SIMD code.
tools:
	if ! command -v cargo >/dev/null; then \
		printf 'setup: expected cargo on PATH, found none\nhint: install Rust, https://rustup.rs\n' >&2; exit 1; \
	fi; \
	if ! command -v gcc >/dev/null; then \
		printf 'setup: expected gcc on PATH, found none\nhint: sudo apt-get install build-essential\n' >&2; exit 1; \
	fi; \
	missing=(); \
	for tool in cmake nasm; do command -v "$$tool" >/dev/null || missing+=("$$tool"); done; \
	if [ "$${#missing[@]}" = 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=(); else as_root=(sudo -n); fi; \
	if ! command -v apt-get >/dev/null || ! "$${as_root[@]}" true 2>/dev/null; then \
		printf 'setup: expected %s on PATH, found none\n' "$${missing[*]}" >&2; \
		printf 'hint: sudo apt-get install %s\n' "$${missing[*]}" >&2; exit 1; \
	fi; \
	echo "setup: installing $${missing[*]} with apt-get"; \
	"$${as_root[@]}" apt-get update -qq; \
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq --no-install-recommends "$${missing[@]}" >/dev/null

$(INSTALLED): $(REQUIREMENTS) | tools
	for python in python3 python3.14 python3.13 python3.12 python3.11 none; do \
		if "$$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; \
		then break; fi; \
	done; \
	if [ "$$python" = none ]; then \
		echo "setup: expected Python 3.11 to 3.14 with the venv module, found $$(python3 --version 2>&1 || true)" >&2; \
		echo "hint: sudo apt-get install python3 python3-venv" >&2; exit 1; \
	fi; \
	echo "setup: installing ONNX Runtime, DuckDB and Polars into .venv"; \
	"$$python" -m venv --clear .venv; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps --require-hashes \
		$(addprefix -r ,$(REQUIREMENTS)); \
	touch $@
