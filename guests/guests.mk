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

$(GUESTS)/linux/busybox: $(DOWNLOADS)/busybox-static.deb
	@mkdir -p $(@D)
	@dpkg-deb --fsys-tarfile $< | tar -xO ./bin/busybox >$@.new
	@chmod +x $@.new
	@mv $@.new $@

$(LINUX_INITRAMFS): $(GUESTS)/linux/busybox guests/linux/init guests/linux/make_initramfs.py
	@guests/linux/make_initramfs.py $< guests/linux/init $@

# Bare guests: one assembly file each, with the boot header it asks for.
BARE_SOURCES := $(wildcard guests/bare/*.S)
BARE_GUESTS := $(BARE_SOURCES:guests/bare/%.S=$(GUESTS)/bare/%.elf)

$(GUESTS)/bare/%.elf: guests/bare/%.S guests/bare/bare.h guests/bare/bare.ld
	@mkdir -p $(@D)
	@gcc -m32 -c -nostdlib -Wa,--fatal-warnings -I guests/bare -o $(@:.elf=.o) $<
	@ld -m elf_i386 -n --build-id=none --no-warn-rwx-segments -T guests/bare/bare.ld -o $@ $(@:.elf=.o)

# What needs no network, and what may.
.PHONY: bare-guests linux-guest guests
bare-guests: $(BARE_GUESTS)
linux-guest: $(LINUX_KERNEL) $(LINUX_INITRAMFS)
guests: bare-guests linux-guest
