# Two commands: `make demo` shows director at work, `make test` passes every test. Both install what is missing first (Debian 12)
# and need root, because they build a lab of network namespaces.
#
#   make demo [MODE=nat|dr|tun|fullnat|ipv6] [WIRE=af-packet|af-xdp] [KEEP=1]
#   make bench [QUICK=1]   measures director; a table, target/bench/bench.json and a plot, bench.svg
#   make record-instructions   writes down how many instructions the fast path takes, for `make test` to compare with
#   make replay FILE=path   replays a recording of IPVS against a throw-away director and shows what differs; no root
#   make fuzz [SECONDS=600] [TARGETS="nat dr …"]   looks for bytes that director does wrong with; new ones go to fuzz/corpus
#   make stop            takes down the labs that KEEP=1 left up

MODE ?= nat
WIRE ?= af-packet
KEEP ?=
QUICK ?=
FILE ?=
SECONDS ?= 600
TARGETS ?= parse nat fullnat across snat dr tunnel local icmp commands requests configuration

RELEASE = $(CURDIR)/target/release

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo bench replay fuzz record-instructions stop test deps root build check test-unit test-models test-loom test-instructions test-e2e test-asan

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: root deps
	cargo build --release -p director -p control -p lab --bins
	target/release/demo --mode $(MODE) --wire $(WIRE) $(if $(KEEP),--keep)

# With the machine to itself: figures in cycles are worth little beside other work.
bench: root deps
	cargo build --release -p bench -p director
	target/release/bench $(if $(QUICK),--quick)

stop:
	target/release/demo --stop

# Without `deps`: it needs no DPDK.
replay:
	@test -n "$(FILE)" || { echo "which recording? make replay FILE=path" >&2; exit 1; }
	@cargo build --quiet -p replay
	@target/debug/replay "$(FILE)"

# The stable compiler has what it takes but hides the switches. Without link-time optimisation, which the coverage counters do not survive.
# A folder of its own for what is found: the best of it is merged into the corpus, which stays small.
fuzz: export RUSTC_BOOTSTRAP = 1
fuzz: export CARGO_PROFILE_RELEASE_LTO = off
fuzz:
	cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet cargo-fuzz
	for target in $(TARGETS); do \
	    found=target/fuzz/found/$$target seeds=target/fuzz/seeds/$$target corpus=fuzz/corpus/$$target; \
	    mkdir -p $$found $$corpus && cargo run --quiet -p fuzz --bin seeds $$target $$seeds && \
	    cargo fuzz run --target-dir target/fuzz --features libfuzzer $$target $$found $$corpus $$seeds -- \
	        -max_total_time=$(SECONDS) -max_len=4096 -print_final_stats=1 && \
	    cargo fuzz run --target-dir target/fuzz --features libfuzzer $$target $$corpus $$found $$seeds -- -set_cover_merge=1 || exit 1; \
	done

test: root deps check test-unit test-models test-e2e test-asan

root:
	@test "$$(id -u)" = 0 || { echo "please run as root (sudo make ...): the lab makes network namespaces" >&2; exit 1; }

deps:
	@lab/install-packages

build: deps
	cargo build --release -p director -p control --bins

check: deps
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings

test-unit: deps
	cargo test --workspace --exclude lab
	cargo test -p lab --lib

# The connection table under every interleaving that loom can find. Its own target directory, because the flag rebuilds everything.
test-loom:
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	cargo test -p dataplane --release --lib models

# Both at once: the one waits for one compiler after the other, and neither minds what else the machine does.
test-models: deps
	$(MAKE) --no-print-directory test-loom & loom=$$!; \
	$(MAKE) --no-print-directory test-instructions; instructions=$$?; \
	wait $$loom && exit $$instructions

# How many instructions a packet takes, as the shipped profile compiles it: repeatable, where times are not.
test-instructions: deps
	cargo bench -p dataplane --bench instructions

record-instructions: deps
	RECORD_INSTRUCTIONS=1 cargo bench -p dataplane --bench instructions

# One after the other: each lab's director wants a core for itself. The lab itself has no need to be fast, and is compiled already.
STORIES = cargo test -p lab --test end_to_end -- --test-threads=1

test-e2e: root build
	DIRECTOR_BIN=$(RELEASE)/director LBCTL_BIN=$(RELEASE)/lbctl $(STORIES)

# With a director under AddressSanitizer and LeakSanitizer, unoptimised, so that overflows of numbers are found as well: the
# stories in which packets are taken to pieces and put together in different ways, each way once. ASAN_STORIES= plays all of them.
# The stable compiler has the sanitizers' runtime but hides the switch.
ASAN = $(CURDIR)/target/asan
ASAN_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
ASAN_STORIES = across::servers balance::direct_routing_shares_out_66_requests_over_xdp balance::nat_decrements bonds::files_arrive_by_a_bond_and_by_what_is_left_of_it_by_nat \
    daemon::a_clean_stop downloads::a_deleted_server fragments::large_datagrams_come_back_whole_by fragments::large_datagrams_come_back_whole_through \
    frames:: fullnat::servers fullnat::udp icmp::a_client icmp::a_socket ipv6::nat jumbo::files_arrive_in_jumbo_frames_by_nat \
    linux::an_unbalanced local::by_nat mss::both ranges::nat sip:: snat::servers statistics::a_saved tunnels::nginx two_workers::replies \
    vlans::one_port

test-asan: root build
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo build -p director --target $(ASAN_HOST) --target-dir $(ASAN)
	LSAN_OPTIONS=suppressions=$(CURDIR)/lab/lsan.supp:print_suppressions=0 \
	DIRECTOR_BIN=$(ASAN)/$(ASAN_HOST)/debug/director LBCTL_BIN=$(RELEASE)/lbctl $(STORIES) $(ASAN_STORIES)
