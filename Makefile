# Lockstep. `make help` lists what there is to do.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BIN      := bin/lockstep
MAIN     := ./cmd/lockstep
LDFLAGS  := -s -w -X github.com/lockstep-ha/lockstep/internal/control.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Time for each fuzz target; time and rounds of each benchmark.
FUZZTIME ?= 10s
BENCH_RUNTIME ?= 4
BENCH_ROUNDS  ?= 3
FAILOVER_RUNS ?= 50
# Passed to go test: make test ARGS='-run Secondary -v'.
ARGS ?=

# Seeds of the simulator and the first of them, and in how many processes.
SEEDS ?= 2000
FIRST ?= 1
CORES ?= $(shell nproc 2>/dev/null || echo 1)

SUMMARY := bin/testsum

.PHONY: FORCE help build test unit blackbox race sim sim-teeth e2e services-e2e vm failover-bench fuzz bench lint demo session setup ci clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the static program bin/lockstep
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) $(MAIN)

setup: ## install the programs that tests use (Debian, as root; says what is missing otherwise)
	@tests/setup.sh

$(SUMMARY): FORCE
	@$(GO) build -o $@ ./tests/cmd/testsum
FORCE:

test: setup $(SUMMARY) ## run all tests: packages first, then real processes
	@$(SUMMARY) $(ARGS) -- ./... '!/tests/' -- -p=1 ./tests/...

unit: $(SUMMARY) ## run the tests of the packages only
	@$(SUMMARY) $(ARGS) -- ./... '!/tests/'

blackbox: setup $(SUMMARY) ## run the tests with real processes only
	@$(SUMMARY) $(ARGS) -- -p=1 ./tests/...

race: setup $(SUMMARY) ## run all tests with the race detector, daemons included
	@LOCKSTEP_BUILD_FLAGS=-race $(SUMMARY) -race -timeout 40m $(ARGS) -- ./... '!/tests/' -- -p=1 ./tests/...

sim: ## run SEEDS (2000) of the simulator from FIRST (1) on, one process a core
	@$(GO) test -c -tags marks -o bin/sim.test ./internal/sim
	@cd internal/sim && ../../bin/sim.test -test.run '^(TestRegressions|TestSeeds)$$' \
		-procs $(CORES) -seeds $(SEEDS) -first $(FIRST) $(ARGS)

sim-teeth: ## plant one bug after the other: the simulator or a test has to find each
	@$(GO) test -c -tags plantedbugs -o bin/simteeth.test ./internal/sim
	@cd internal/sim && rc=0 && pids= && \
	for i in $$(seq 0 $$(($(CORES) - 1))); do \
		../../bin/simteeth.test -test.run '^TestTeeth$$' -shard $$i/$(CORES) $(ARGS) & pids="$$pids $$!"; \
	done; \
	for p in $$pids; do wait $$p || rc=1; done; \
	../../bin/simteeth.test -test.run '^(TestScenario_PlantedBugs|TestAutopsy_OfAPlantedBug)$$' || rc=1; \
	cd ../.. && $(GO) test -tags plantedbugs -run Planted \
		./internal/store ./quorum/... ./internal/device ./bitmap ./replication || rc=1; \
	exit $$rc

e2e: setup $(SUMMARY) ## run the tests of failover with 50 rounds instead of a few
	@LOCKSTEP_E2E=full $(SUMMARY) -count=1 -timeout 60m $(ARGS) -- ./tests/e2e/...

services-e2e: setup $(SUMMARY) ## run the tests of what follows the primary, a database through ten failovers among them
	@LOCKSTEP_E2E=full $(SUMMARY) -count=1 -timeout 30m $(ARGS) -- ./internal/services/... ./tests/services/...

vm: setup $(SUMMARY) ## run the tests in machines that QEMU emulates: /dev/nbd, mounts, power cuts, watchdog
	@$(SUMMARY) -count=1 -timeout 20m $(ARGS) -- ./tests/vm/...

failover-bench: build setup ## measure how long a client waits for a failover (FAILOVER_RUNS)
	@$(GO) run ./tests/failoverbench -lockstep $(BIN) -runs $(FAILOVER_RUNS) $(ARGS)

fuzz: ## run every fuzz target for FUZZTIME (10s)
	@tests/fuzz.sh $(FUZZTIME)

bench: build setup ## measure side by side with nbdkit and QEMU (BENCH_RUNTIME, BENCH_ROUNDS)
	@$(GO) run ./tests/bench -lockstep $(BIN) -runtime $(BENCH_RUNTIME) -rounds $(BENCH_ROUNDS) $(ARGS)

lint: ## gofmt, vet, staticcheck, import rules
	@tests/lint.sh $(STATICCHECK)

demo: build setup ## a cluster in a minute: lose a node, resync, switch over, compare
	@tests/demo/demo.sh $(BIN)

session: build ## record the terminal session that README.md shows
	@tests/demo/session.sh $(BIN)

ci: ## what continuous integration runs
	@.ci/run

clean: ## remove what was built
	rm -rf bin tests/logs
