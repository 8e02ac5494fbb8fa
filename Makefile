# Verbs for developers. Each is a short file in scripts/; this file only names them.
# HOST, PORT and PYTHON reach them from the environment or the command line: make run PORT=9000

.DEFAULT_GOAL := help
.PHONY: help run cluster test test-all faults chaos mutants soak bench profile check lint lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s  %s\n", $$1, $$2 }' Makefile

run: ## set up what is missing and serve at HOST:PORT (127.0.0.1:8000)
	@scripts/run $(ARGS)

cluster: ## start web x 2, workers x 2, Redis, PostgreSQL and nginx on loopback, to try them out; Ctrl-C ends all
	@scripts/cluster $(ARGS)

test: ## set up what is missing and run the tests: make test ARGS="-k word"
	@scripts/test $(ARGS)

test-all: ## the same with every variant and all examples, with the newest Python and Django, then the fault scripts at full length and the mutants (over an hour)
	@scripts/test-all $(ARGS)

faults: ## run the fault scripts at full length (half an hour): make faults FAULTS_SEED=1 ARGS="-k deploys"
	@scripts/faults $(ARGS)

chaos: ## random faults over a cluster, judged by a checker: make chaos N=50, or CHAOS_SEED=1 ROUND=7 to repeat one
	@scripts/chaos $(ARGS)

mutants: ## break each core law on purpose and see that a test notices: make mutants ARGS="journal"
	@scripts/mutants $(ARGS)
soak: ## ten minutes of steady load with faults, after which nothing may have grown or be left (SOAK_SECONDS=3600: an hour)
	@scripts/soak $(ARGS)

bench: ## measure streams beside their peers and write the report (an hour): make bench ARGS=--quick
	@scripts/bench $(ARGS)

check: ## format, lint, types, Django's checks, missing migrations, known vulnerabilities; changes nothing
	@scripts/check $(ARGS)

lint: ## format and repair what can be repaired
	@scripts/lint $(ARGS)

profile: ## sample a server under load: a flame graph and a table of where the time goes (docs/performance.md)
	@scripts/profile $(ARGS)

lock: ## re-make requirements/ from pyproject.toml; ARGS=--upgrade for the newest versions
	@scripts/lock $(ARGS)

clean: ## remove .venv and the caches; .env and the database stay
	@scripts/clean
