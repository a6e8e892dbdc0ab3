# What a person does often. Arguments for the program: make demo ARGS="--orders 20000"

CARGO_DENY := .cache/venv/bin/cargo-deny
# Tests wait for Kafka and PostgreSQL most of the time: more of them than there are cores can do so at once.
RUST_TEST_THREADS ?= 6
MINUTES ?= 3

# POSTGRES=18 for what follows: this version, fetched, instead of the system's. 16, 17 or 18.
ifdef POSTGRES
export POSTGRES
export HERALD_POSTGRES_BIN := $(CURDIR)/.cache/postgres-$(POSTGRES)/bin
endif

.PHONY: help demo test model chaos bench lint fmt clippy rustdoc deny advisories deployment docs dashboards pictures queries setup

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## the whole worker on an embedded broker and a private PostgreSQL
	@scripts/setup --demo
	@cargo run --locked --quiet -- demo $(ARGS)

test: ## all tests, on a real Kafka and a real PostgreSQL
	@scripts/setup
	RUST_TEST_THREADS=$(RUST_TEST_THREADS) cargo test --locked $(ARGS)

chaos: ## breaks everything that can break and accounts for every record: docs/chaos.md. MINUTES=60 SEED=1
	@scripts/setup
	@cargo test --locked --quiet --test chaos -- --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

model: ## the engine against naive models of Kafka and the ledger, and the ledger against its model, at random: make model STEPS=10000000, or SEED=17
	@scripts/setup --demo
	$(if $(SEED),HERALD_MODEL_SEED=$(SEED),CARGO_PROFILE_TEST_OPT_LEVEL=2 HERALD_MODEL_STEPS=$(or $(STEPS),1000000)) cargo test --locked --lib -- simulation --nocapture
	$(if $(SEED),HERALD_MODEL_SEED=$(SEED),HERALD_MODEL_STEPS=$(or $(STEPS),1000000)) cargo test --locked --test behaviour -- ledger::model

.PHONY: fuzz
fuzz: ## inputs that reach ever more code, for each of decode, letters, records and configuration, or TARGET=decode: SECONDS=60
	@scripts/setup --build
	@scripts/fuzz $(or $(SECONDS),60) $(TARGET)

bench: ## all measures of speed and memory, or those named: make bench ARGS="keys latency"; docs/benchmarks.md
	@scripts/setup
	-cargo bench --locked --bench end_to_end -- $(ARGS)

.PHONY: bench-peers
bench-peers: ## the same job on Spring Kafka, Parallel Consumer and kafka-python
	@scripts/setup --peers
	-cargo bench --locked --bench end_to_end -- peers $(ARGS)

lint: fmt-check clippy rustdoc deny deployment ## formatting, clippy, documentation, dependencies and deployment

fmt: ## formats the code
	cargo fmt --all

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

clippy: ## clippy, warnings denied
	@scripts/setup --build
	cargo clippy --locked --workspace --all-targets -- -D warnings

rustdoc: ## the documentation of the code, warnings denied
	@scripts/setup --build
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

deny: ## licences, bans and sources of the dependencies
	@scripts/setup --lint
	$(CARGO_DENY) --locked --workspace check --hide-inclusion-graph licenses bans sources

advisories: ## known vulnerabilities; apart from the others, since it fetches a database from the network
	@scripts/setup --lint
	$(CARGO_DENY) --locked --workspace check advisories

docs: ## writes docs/configuration.md, docs/metrics.md and herald.example.toml from the code
	@scripts/setup --build
	cargo build --locked --quiet
	@mkdir -p .cache
	cargo run --locked --quiet -- config docs >.cache/configuration.md
	cargo run --locked --quiet -- config example >.cache/herald.example.toml
	cargo run --locked --quiet -- metrics docs >.cache/metrics.md
	mv .cache/configuration.md docs/configuration.md
	mv .cache/metrics.md docs/metrics.md
	mv .cache/herald.example.toml herald.example.toml

deployment: ## schemas of deploy/
	@scripts/setup --lint
	scripts/check-deployment

dashboards: ## writes the Grafana dashboards from dashboards/generate.py
	python3 dashboards/generate.py

pictures: ## draws the dashboards after six minutes of a real Herald to docs/images; needs chromium
	@scripts/setup
	cargo test --locked --test pictures -- docs/images

queries: ## writes .sqlx, which lets the checked queries compile without a database
	@scripts/setup --demo
	scripts/prepare-queries

setup: ## installs what is missing for all of this
	@scripts/setup --ci
