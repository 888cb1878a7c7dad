# troupe: your own text in, a judged, registered and promoted small language model out.
# Every target sets up what it needs; `make` alone lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# TORCH=cpu takes PyTorch's CPU build; anything else takes what pip finds (on Linux: the CUDA build).
TORCH  ?=
TORCH_INDEX := $(if $(filter cpu,$(TORCH)),https://download.pytorch.org/whl/cpu)
SET ?=
PROFILE ?=
# When `make ui` is to train by itself, e.g. CRON="0 3 * * *"; in this machine's time zone, or that of TZ.
export CRON ?=
# What a scheduled run does when another is at work (wait, skip), and for times at which the machine was off (never, once, all).
export WHEN_BUSY ?=
export CATCH_UP ?=
# A checkout of nanoGPT, for the benchmarks that run its own scripts.
NANOGPT ?=
# What is typed is what arrives: make would read a `$` in it as a variable of its own.
override SET := $(value SET)
override PROFILE := $(value PROFILE)
override NANOGPT := $(value NANOGPT)
export SET PROFILE NANOGPT
# Options of a study, e.g. STUDY="--quick" or STUDY="--config moe-gpu"; `--help` lists them.
STUDY ?=
export TROUPE_UID ?= $(shell id -u)
export TROUPE_GID ?= $(shell id -g)
# A run starts dozens of interpreters, and uv compiles nothing: without bytecode each would compile torch for ten seconds.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
NUMERIC := $(PYTEST) -m 'not slow' $(addprefix tests/,kernels models bundles training conversion \
    adversarial judging evaluation oracle inspection golden stages/test_pretrain.py stages/test_moe.py stages/test_evaluate.py)
BENCHMARKS ?= tokenisation text_size generation training shakespeare switchhead serving
PORT   ?= 5001
COMPOSE ?= docker compose
ENGINE_PROFILE ?= cpu
BACKUP ?= ../$(notdir $(CURDIR))-backup
STACK = SERVICE=trainer-$(ENGINE_PROFILE) COMPOSE="$(COMPOSE) -f docker/compose.yaml --profile $(ENGINE_PROFILE)"

.DEFAULT_GOAL := help
.PHONY: help setup pipeline bench study-ladder study-mixture study-architectures study-decoding study-moe study-gan study-adversarial study-oracle test test-faults test-security numerics check ui address schedule service promote rollback serve init image up backup restore down clean

help: ## list the targets
	@echo "troupe: text in, a judged, registered and promoted small language model out"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  make pipeline SET="pretrain.steps=500 data.source=tiny-shakespeare"   parameters for one run'
	@echo '  make pipeline PROFILE=cpu-hours                                       a named set of them; SET wins over it'
	@echo '  make setup TORCH=cpu                                                  on a machine without a GPU'
	@echo '  make ui CRON="0 3 * * *"                                              every night at three, local time'
	@echo '  make schedule CRON="0 3 * * *" TZ=Europe/Berlin PROFILE=cpu-hours     beside `make ui`; WHEN_BUSY=, CATCH_UP='
	@echo '  make bench NANOGPT=../nanoGPT                                         with nanoGPT'\''s own scripts'
	@echo
	@echo 'Profiles (profiles/*.yaml):'
	@if [ -x $(BIN)/troupe ]; then $(BIN)/troupe profiles; \
	    else echo '  $(sort $(notdir $(basename $(wildcard profiles/*.yaml)))); after `make setup`, what they are'; fi

setup: $(STAMP) ## install the locked packages into .venv (every other target does this when needed)

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "troupe needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	@echo "Setting up $(VENV), once; its log: $(VENV)/setup.log"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python tools/install.py $(VENV)/setup.log $(TORCH_INDEX)
	@touch $@

pipeline: $(STAMP) ## text -> pretrain -> experts -> adversarial -> judged, registered, promoted
	@$(BIN)/python -m pipelines run --profile "$$PROFILE" --set "$$SET"

bench: $(STAMP) ## measure beside public peers, page by page into benchmarks/results (NANOGPT=path adds nanoGPT)
	@failed=; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || failed="$$failed $$name"; done; \
	    test -z "$$failed" || { echo "not complete:$$failed" >&2; exit 1; }

study-moe: $(STAMP) ## what attention experts are worth: half an hour, into studies/moe/results
	@$(BIN)/python -m studies.moe $(STUDY)

study-adversarial: $(STAMP) ## adversarial refinement beside its controls: within 40 minutes, into studies/adversarial/results
	@$(BIN)/python -m studies.adversarial $(STUDY)

study-ladder: $(STAMP) ## from bigram to GPT in twelve rungs, on your own text too, into studies/ladder/results
	@$(BIN)/python -m studies.ladder $(STUDY)

study-mixture: $(STAMP) ## what counts add to a network, part by part, on two texts: 25 minutes on two cores, into studies/mixture/results
	@$(BIN)/python -m studies.mixture $(STUDY)

study-architectures: $(STAMP) ## GPT-2, BERT, BART and T5 on the same text, each on what it is for, into studies/architectures/results
	@$(BIN)/python -m studies.architectures $(STUDY)

study-decoding: $(STAMP) ## how to choose the next token, on the champion (MODEL by STUDY="--model ..."), and its recommended default
	@$(BIN)/python -m studies.decoding $(STUDY)

study-gan: $(STAMP) ## what is said of GAN and WGAN, measured on points: minutes, into studies/gan/results
	@$(BIN)/python -m studies.gan $(STUDY)

study-oracle: $(STAMP) ## SeqGAN's oracle experiment over temperature: within 8 minutes, into studies/oracle/results
	@$(BIN)/python -m studies.oracle $(STUDY)

test: check ## lint, types, import contract and every test, a whole small pipeline among them
	@$(PYTEST)

test-faults: $(STAMP) ## break it in every way that we know of, for real: a line for each fault and what comes of it
	@$(PYTEST) -m fault

test-security: $(STAMP) ## a line for everything that is refused or kept from others
	@$(PYTEST) -m security

numerics: $(STAMP) ## the fast numeric tests as other machines compute: AVX2 alone; two threads, float32
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(NUMERIC)
	@TROUPE_TEST_THREADS=2 TROUPE_TEST_PRECISION=float32 $(NUMERIC)

check: $(STAMP) ## lint, format, types, import contract, Dockerfile
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/hadolint docker/Dockerfile

ui: $(STAMP) ## Prefect and MLflow on loopback, with `train` and others to start and schedule; what dies is started again
	@$(BIN)/python -m pipelines ui --cron "$$CRON"

address: $(STAMP) ## where `make ui` is, with the token that its servers ask for
	@$(BIN)/python -m pipelines address

schedule: $(STAMP) ## have it run by itself, where `make ui` runs: CRON="0 3 * * *" [TZ=Europe/Berlin] [PROFILE=] [SET=]
	@$(BIN)/python -m pipelines schedule --cron "$$CRON" --profile "$$PROFILE" --set "$$SET" \
	    --when-busy "$$WHEN_BUSY" --catch-up "$$CATCH_UP"

service: $(STAMP) ## write a systemd user unit that keeps `make ui` running (CRON= as there)
	@$(BIN)/python -m pipelines service --cron "$$CRON"

promote: $(STAMP) ## put the candidate through the gate
	@$(BIN)/troupe promote

rollback: $(STAMP) ## make the previous champion the champion again
	@$(BIN)/troupe rollback

serve: $(STAMP) ## the champion on http://127.0.0.1:5001: a page to try it, OpenAI's API, MLflow's, Prometheus
	@$(BIN)/troupe serve --port $(PORT)

init: ## make the secrets of the containers, in docker/.env
	@docker/init.sh

image: ## build the containers (ENGINE_PROFILE=gpu for CUDA)
	$(COMPOSE) -f docker/compose.yaml --profile $(ENGINE_PROFILE) build

up: ## start PostgreSQL, MLflow, Prefect and a training worker in containers (after `make init`)
	@docker/workspace.sh --ready >/dev/null
	$(COMPOSE) -f docker/compose.yaml --profile $(ENGINE_PROFILE) up --detach

backup: ## databases, artifacts and cache of the running containers into BACKUP=../troupe-backup
	@$(STACK) docker/backup.sh save "$(BACKUP)"

restore: ## the same, from there, into running containers that have nothing yet
	@$(STACK) docker/backup.sh restore "$(BACKUP)"

down: ## stop the containers; volumes stay
	$(COMPOSE) -f docker/compose.yaml --profile $(ENGINE_PROFILE) down

clean: ## remove what stages wrote and tool caches; DVC cache, run records, registry and data stay
	rm -rf artifacts reports .troupe/checkpoints .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
