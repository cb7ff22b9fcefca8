# Recipes that turn Debian packages into bootable guests, under build/guests. The
# downloads live in their own folder, so that everything else can be made again offline.

GUESTS := $(BUILD)/guests
DOWNLOADS := $(BUILD)/downloads
LINUX_KERNEL := $(GUESTS)/linux/vmlinuz
LINUX_INITRAMFS := $(GUESTS)/linux/initramfs.gz

$(DOWNLOADS)/%.deb:
	@mkdir -p $(DOWNLOADS)
	@guests/fetch_package.sh $* $@

# Only the kernel image: everything a serial console needs is built in.
$(LINUX_KERNEL): $(DOWNLOADS)/linux.deb
	@mkdir -p $(@D)
	@dpkg-deb --fsys-tarfile $< | tar -xO --wildcards './boot/vmlinuz-*' >$@.new
	@mv $@.new $@

# 32-bit kernels, without and with PAE, and programs for them.
LINUX32_KERNELS := $(addprefix $(GUESTS)/linux32/vmlinuz-,686 686-pae)
LINUX32_INITRAMFS := $(GUESTS)/linux32/initramfs.gz
.SECONDARY: $(DOWNLOADS)/linux-686.deb $(DOWNLOADS)/linux-686-pae.deb

$(GUESTS)/linux32/vmlinuz-%: $(DOWNLOADS)/linux-%.deb
	@mkdir -p $(@D)
	@dpkg-deb --fsys-tarfile $< | tar -xO --wildcards './boot/vmlinuz-*' >$@.new
	@mv $@.new $@

$(GUESTS)/linux32/busybox: $(DOWNLOADS)/busybox-static-i386.deb
	@mkdir -p $(@D)
	@dpkg-deb --fsys-tarfile $< | tar -xO ./bin/busybox >$@.new
	@chmod +x $@.new
	@mv $@.new $@

$(LINUX32_INITRAMFS): $(GUESTS)/linux32/busybox guests/linux/init \
    guests/linux/make_initramfs.py
	@guests/linux/make_initramfs.py $< guests/linux/init $@

$(GUESTS)/linux/busybox: $(DOWNLOADS)/busybox-static.deb
	@mkdir -p $(@D)
	@dpkg-deb --fsys-tarfile $< | tar -xO ./bin/busybox >$@.new
	@chmod +x $@.new
	@mv $@.new $@

# Drivers that are modules of that kernel, in the order they need each other.
LINUX_MODULES := $(addprefix $(GUESTS)/linux/modules/,$(addsuffix .ko,virtio_ring virtio \
    virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_mmio virtio-rng virtio_blk \
    virtio_console virtio_balloon failover net_failover virtio_net fuse virtiofs))

# What only some machines have; in an initramfs of their own, for each costs time at every start.
MORE_MODULES := $(addprefix $(GUESTS)/linux/modules/,$(addsuffix .ko,vsock \
    vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport \
    libnvdimm nd_btt nd_pmem nd_virtio virtio_pmem scsi_common scsi_mod sd_mod virtio_scsi))
MORE_INITRAMFS := $(GUESTS)/linux/more-initramfs.gz

$(LINUX_MODULES) $(MORE_MODULES) &: $(DOWNLOADS)/linux.deb
	@mkdir -p $(GUESTS)/linux/modules
	@dpkg-deb --fsys-tarfile $< | tar -x -C $(GUESTS)/linux/modules --transform 's,.*/,,' \
	    --no-anchored $(notdir $(LINUX_MODULES) $(MORE_MODULES))
	@touch $(LINUX_MODULES) $(MORE_MODULES)

$(LINUX_INITRAMFS): $(GUESTS)/linux/busybox guests/linux/init \
    guests/linux/udhcpc.script guests/linux/make_initramfs.py \
    $(LINUX_MODULES)
	@guests/linux/make_initramfs.py $< guests/linux/init $@ $(LINUX_MODULES)

$(GUESTS)/linux/vsock: guests/linux/vsock.c
	@mkdir -p $(@D)
	@gcc -std=gnu11 -Os -static -s -Wall -Wextra -Wshadow -Wconversion -Werror -o $@ $<

$(MORE_INITRAMFS): $(GUESTS)/linux/busybox guests/linux/init \
    guests/linux/udhcpc.script guests/linux/make_initramfs.py \
    $(LINUX_MODULES) $(MORE_MODULES) $(GUESTS)/linux/vsock
	@guests/linux/make_initramfs.py $< guests/linux/init $@ $(LINUX_MODULES) $(MORE_MODULES) \
	    $(GUESTS)/linux/vsock

# The programs of bench/, and a guest that has them. Static, so that they run anywhere; once at
# a fixed address and once position-independent, for the two look different to a translator.
BENCH := $(GUESTS)/bench
BENCH_INITRAMFS := $(GUESTS)/linux/bench-initramfs.gz
BENCH_SOURCES := $(addprefix bench/programs/,main.c integer.c floating.c memory.c system.c)
BENCH_PROGRAMS := $(addprefix $(BENCH)/,suite suite-pie suite-32 tiny load)
BENCH_CC := gcc -std=gnu11 -O2 -ffp-contract=off -Wall -Wextra -Wshadow -Wconversion -Werror

$(BENCH)/suite: $(BENCH_SOURCES) bench/programs/suite.h
	@mkdir -p $(@D)
	@$(BENCH_CC) -static -no-pie -o $@ $(BENCH_SOURCES) -lm
$(BENCH)/suite-pie: $(BENCH_SOURCES) bench/programs/suite.h
	@mkdir -p $(@D)
	@$(BENCH_CC) -static-pie -fPIE -o $@ $(BENCH_SOURCES) -lm
$(BENCH)/suite-32: $(BENCH_SOURCES) bench/programs/suite.h | packages-bench
	@$(BENCH_CC) -m32 -msse2 -mfpmath=sse -static -no-pie -o $@ $(BENCH_SOURCES) -lm
$(BENCH)/tiny: bench/programs/tiny.c
	@mkdir -p $(@D)
	@$(BENCH_CC) -nostdlib -static -no-pie -o $@ $<
$(BENCH)/load: bench/programs/load.sh
	@mkdir -p $(@D)
	@install -m 755 $< $@

$(BENCH_INITRAMFS): $(GUESTS)/linux/busybox guests/linux/init \
    guests/linux/udhcpc.script guests/linux/make_initramfs.py \
    $(LINUX_MODULES) $(BENCH_PROGRAMS)
	@guests/linux/make_initramfs.py $< guests/linux/init $@ $(LINUX_MODULES) $(BENCH_PROGRAMS)

# A guest that measures its disks and networks, with this machine's fio and iperf3.
IO_BENCH_INITRAMFS := $(GUESTS)/linux/io-bench-initramfs.gz
IO_BENCH_PROGRAMS := /usr/bin/fio /usr/bin/iperf3

$(IO_BENCH_INITRAMFS): $(GUESTS)/linux/busybox guests/linux/init \
    guests/linux/udhcpc.script guests/linux/make_initramfs.py $(LINUX_MODULES) | packages-bench
	@guests/linux/make_initramfs.py $< guests/linux/init $@ $(LINUX_MODULES) $(IO_BENCH_PROGRAMS)

# A guest that builds a C program, with this machine's compiler.
WORK_INITRAMFS := $(GUESTS)/linux/work-initramfs.gz
WORK_SOURCES := $(DOWNLOADS)/lua5.4.tar.gz

$(WORK_SOURCES): | guests/linux/fetch_source.sh
	@mkdir -p $(@D)
	@guests/linux/fetch_source.sh lua5.4 $@
$(GUESTS)/linux/compiler-files: guests/linux/compiler_files.sh | packages-build
	@mkdir -p $(@D)
	@guests/linux/compiler_files.sh >$@
$(GUESTS)/bench/sources.tar.gz: $(WORK_SOURCES)
	@mkdir -p $(@D)
	@cp $< $@
$(WORK_INITRAMFS): $(GUESTS)/linux/busybox guests/linux/init guests/linux/udhcpc.script \
    guests/linux/make_initramfs.py $(GUESTS)/linux/compiler-files $(GUESTS)/bench/sources.tar.gz
	@guests/linux/make_initramfs.py $< guests/linux/init $@ @$(GUESTS)/linux/compiler-files \
	    $(GUESTS)/bench/sources.tar.gz

# A Debian system with a self-test, as a folder to run it in here and as an initramfs. Its
# packages are a download; the rest can be made again from that.
DEBIAN_DISK := $(DOWNLOADS)/debian-disk
# One for tests, which leave it as it is.
DEBIAN_SYSTEM := $(DOWNLOADS)/debian-system
DEBIAN_ARCHIVE := $(DOWNLOADS)/debian.tar.zst
DEBIAN_INITRAMFS := $(GUESTS)/debian/initramfs.zst
DEBIAN_PROGRAMS := $(wildcard bench/programs/*.c bench/programs/*.h)
DEBIAN_SELFTEST := $(shell find guests/debian/selftest -type f) guests/debian/init

$(DEBIAN_ARCHIVE): | guests/debian/bootstrap.sh
	@mkdir -p $(@D)
	@guests/debian/bootstrap.sh $@
$(DEBIAN_INITRAMFS): $(DEBIAN_ARCHIVE) guests/debian/make_root.sh $(DEBIAN_SELFTEST) \
    $(DEBIAN_PROGRAMS)
	@mkdir -p $(@D)
	@guests/debian/make_root.sh $< $(@D)/root $@ $(DEBIAN_PROGRAMS)

# Bare guests: one assembly file each, with the boot header it asks for.
BARE_LD := ld -m elf_i386 -n --build-id=none --no-warn-rwx-segments -T guests/bare/bare.ld
BARE_SOURCES := $(wildcard guests/bare/*.S)
BARE_GUESTS := $(BARE_SOURCES:guests/bare/%.S=$(GUESTS)/bare/%.elf)

$(GUESTS)/bare/%.elf: guests/bare/%.S guests/bare/bare.h guests/bare/bare.ld
	@mkdir -p $(@D)
	@gcc -m32 -c -nostdlib -Wa,--fatal-warnings -I guests/bare -o $(@:.elf=.o) $<
	@$(BARE_LD) -o $@ $(@:.elf=.o)

# Bare guests in C: entry.S, machine.c and what else they name. fuzz lies at an address that no
# small number is, nor a page number in sight: it gives devices nonsense for addresses.
BARE_C := $(GUESTS)/bare/c
BARE_CC := gcc -m32 -std=gnu11 -O2 -ffreestanding -fno-pic -fno-stack-protector -fno-builtin \
    -fcf-protection=none -fno-asynchronous-unwind-tables -mgeneral-regs-only -I guests/bare \
    -Wall -Wextra -Wshadow -Wconversion -Wno-pointer-to-int-cast -Wno-int-to-pointer-cast -Werror
BARE_C_HEADERS := $(wildcard guests/bare/c/*.h) guests/bare/bare.h
BARE_C_GUESTS := $(addprefix $(GUESTS)/bare/,fuzz.elf writer.elf smp.elf order.elf \
    hypercalls.elf)
FUZZ_PARTS := entry machine virtio random fuzz fuzz_requests fuzz_ring fuzz_machine
WRITER_PARTS := entry machine virtio writer
SMP_PARTS := entry machine smp_entry smp
HYPERCALLS_PARTS := entry machine smp_entry hypercalls
ORDER_PARTS := entry machine smp_entry order_entry order

$(BARE_C)/%.o: guests/bare/c/%.c $(BARE_C_HEADERS)
	@mkdir -p $(@D)
	@$(BARE_CC) -c -o $@ $<
$(BARE_C)/%.o: guests/bare/c/%.S $(BARE_C_HEADERS)
	@mkdir -p $(@D)
	@$(BARE_CC) -c -o $@ $<
$(GUESTS)/bare/fuzz.elf: $(FUZZ_PARTS:%=$(BARE_C)/%.o) guests/bare/bare.ld
	@$(subst -T,--defsym image_start=0x3a5b7000 -T,$(BARE_LD)) -o $@ $(FUZZ_PARTS:%=$(BARE_C)/%.o)
$(GUESTS)/bare/writer.elf: $(WRITER_PARTS:%=$(BARE_C)/%.o) guests/bare/bare.ld
	@$(BARE_LD) -o $@ $(WRITER_PARTS:%=$(BARE_C)/%.o)
$(GUESTS)/bare/smp.elf: $(SMP_PARTS:%=$(BARE_C)/%.o) guests/bare/bare.ld
	@$(BARE_LD) -o $@ $(SMP_PARTS:%=$(BARE_C)/%.o)
$(GUESTS)/bare/hypercalls.elf: $(HYPERCALLS_PARTS:%=$(BARE_C)/%.o) guests/bare/bare.ld
	@$(BARE_LD) -o $@ $(HYPERCALLS_PARTS:%=$(BARE_C)/%.o)

# Its 64-bit half, which is put into it whole.
$(BARE_C)/order64: guests/bare/c/order64.c guests/bare/flat.ld $(BARE_C_HEADERS)
	@mkdir -p $(@D)
	@$(subst -m32,-m64,$(subst -fno-pic,-fpie,$(BARE_CC))) -mno-red-zone -c -o $@.o $<
	@ld -m elf_x86_64 --build-id=none --oformat binary -T guests/bare/flat.ld -o $@ $@.o
$(BARE_C)/order_entry.o: guests/bare/c/order_entry.S $(BARE_C)/order64
	@$(BARE_CC) -DORDER_IMAGE='"$(BARE_C)/order64"' -c -o $@ $<
$(GUESTS)/bare/order.elf: $(ORDER_PARTS:%=$(BARE_C)/%.o) guests/bare/bare.ld
	@$(BARE_LD) -o $@ $(ORDER_PARTS:%=$(BARE_C)/%.o)

# What needs no network, and what may.
.PHONY: bare-guests linux-guest linux32-guest bench-guest debian-guest guests
bare-guests: $(BARE_GUESTS) $(BARE_C_GUESTS)
linux-guest: $(LINUX_KERNEL) $(LINUX_INITRAMFS) $(MORE_INITRAMFS)
linux32-guest: $(LINUX32_KERNELS) $(LINUX32_INITRAMFS)
bench-guest: linux-guest $(BENCH_INITRAMFS) $(IO_BENCH_INITRAMFS) $(WORK_INITRAMFS)
debian-guest: linux-guest $(DEBIAN_INITRAMFS)
guests: bare-guests linux-guest linux32-guest
