# The commands of this repository. Each installs what it needs first (only what is
# missing), so each works as the first one on a fresh Debian 12, as root or with sudo.
#
#   make run          build, fetch a Debian kernel, boot it, give a shell
#   make run-debian   make a Debian disk once, boot it, with SSH at port 2222 of this machine
#   make check        build and run every test that takes seconds; sanitizers; source rules
#   make check-slow   the tests that take minutes
#   make check-threads  ThreadSanitizer: quick tests, guests with several processors
#   make build        the binary alone, at build/doppel
#   make fuzz         every fuzz target for a minute, with sanitizers
#   make bench        speed, against this machine and QEMU's emulator
#   make clean        remove what was built; downloads stay (make distclean: those too)

SHELL := /bin/bash
.DEFAULT_GOAL := build

BUILD := build
SANITIZED := build-asan
THREADS := build-tsan
FUZZERS := build-fuzz
INSTALL := @scripts/install_packages.sh
# Options of `doppel run` for `make run`, such as RUN="--engine interpret --memory 1G".
RUN ?=
# Options of `doppel image debian` for the first `make run-debian`, such as
# DEBIAN="--ssh-key ~/.ssh/id_ed25519.pub --packages vim,git".
DEBIAN ?=
# Options of bench/bench.py for `make bench`, such as BENCH_OPTIONS="--engines kvm --quick".
BENCH_OPTIONS ?=
FUZZ_SECONDS ?= 60

include guests/guests.mk

.PHONY: build run run-debian check check-slow check-threads fuzz bench clean distclean
.PHONY: packages-build packages-guest packages-check packages-debian packages-bench build-tests sanitized

# Package installation comes before anything that uses the packages, also with -j.
packages-build:
	$(INSTALL) build
packages-guest:
	$(INSTALL) build guest
packages-check:
	$(INSTALL) build guest check
packages-debian:
	$(INSTALL) build guest check debian
packages-bench:
	$(INSTALL) build guest bench
$(LINUX_INITRAMFS) $(LINUX32_INITRAMFS) $(BARE_GUESTS) $(BENCH_PROGRAMS): | packages-guest
$(DEBIAN_ARCHIVE) $(DEBIAN_INITRAMFS): | packages-debian

build: packages-build
	@scripts/build.sh $(BUILD) doppel

run: packages-guest linux-guest
	@scripts/build.sh $(BUILD) doppel
	@$(BUILD)/doppel run --kernel $(LINUX_KERNEL) --initrd $(LINUX_INITRAMFS) \
	    --cmdline console=ttyS0 $(RUN)

# The disk is kept like a download: it has what its user did.
run-debian: packages-debian
	@scripts/build.sh $(BUILD) doppel
	@mkdir -p $(DOWNLOADS)
	@[ -e $(DEBIAN_DISK).qcow2 ] || $(BUILD)/doppel image debian $(DEBIAN_DISK).qcow2 $(DEBIAN)
	@$(BUILD)/doppel run --memory 1G --kernel $(DEBIAN_DISK).vmlinuz --initrd $(DEBIAN_DISK).initrd \
	    --disk $(DEBIAN_DISK).qcow2 --net user,hostfwd=tcp:127.0.0.1:2222-:22 \
	    --cmdline 'console=ttyS0 root=LABEL=doppel-root' $(RUN)

build-tests: packages-check
	@scripts/build.sh $(BUILD) all -DDOPPEL_TESTS=ON

sanitized: packages-check
	@scripts/build.sh $(SANITIZED) all -DDOPPEL_TESTS=ON -DDOPPEL_SANITIZE=address,undefined

check: packages-check guests
	@$(MAKE) --no-print-directory build-tests
	@$(MAKE) --no-print-directory sanitized
	@scripts/check.sh $(BUILD) $(SANITIZED)

check-slow: packages-debian guests debian-guest
	@$(MAKE) --no-print-directory build-tests
	@mkdir -p $(DOWNLOADS)
	@[ -e $(DEBIAN_SYSTEM).qcow2 ] || $(BUILD)/doppel image debian $(DEBIAN_SYSTEM).qcow2
	@ctest --test-dir $(BUILD) --output-on-failure -L slow

check-threads: packages-check guests
	@scripts/build.sh $(THREADS) all -DDOPPEL_TESTS=ON -DDOPPEL_SANITIZE=thread
	@scripts/check_threads.sh $(THREADS) $(GUESTS)

fuzz:
	$(INSTALL) build fuzz
	@scripts/fuzz.sh $(FUZZERS) $(FUZZ_SECONDS)

bench: packages-bench bench-guest
	@scripts/build.sh $(BUILD) doppel
	@python3 -B bench/bench.py $(BUILD)/doppel $(GUESTS) $(BENCH_OPTIONS)

clean:
	@if [ -d $(BUILD) ]; then \
	    find $(BUILD) -mindepth 1 -maxdepth 1 ! -path $(DOWNLOADS) -exec rm -rf {} +; fi
	@rm -rf $(SANITIZED) $(THREADS) $(FUZZERS)
distclean:
	@rm -rf $(BUILD) $(SANITIZED) $(THREADS) $(FUZZERS)
