// What --help prints, at most 80 columns wide.
#include "cli/command.h"

namespace doppel::cli {

const std::string_view main_help =
    R"(doppel runs unmodified x86-64 operating systems, with KVM where the host has it
and without any virtualisation hardware where it does not.

Usage: doppel COMMAND [OPTIONS]

Commands:
  run        boot a kernel in a virtual machine and connect its console
  stats      what a running virtual machine does, in numbers
  image      make, check, convert and resize disk images
  doctor     what this host offers, and which engines will work on it
  version    print the version (also --version)
  help       print this text, or the text of a command: doppel help run

Examples:
  doppel run --kernel vmlinuz --initrd initramfs.gz --cmdline console=ttyS0
  doppel doctor
  doppel help run
)";

const std::string_view run_help =
    R"(Boots a kernel in a virtual machine and connects its first serial port.

Usage: doppel run --kernel FILE [OPTIONS]

  --kernel FILE       What to boot, recognised by its content: a Linux bzImage
                      (64-bit or 32-bit entry), an ELF file with a PVH note, or
                      a multiboot 1 image.
  --initrd FILE       Initial RAM disk for Linux, first module for multiboot.
  --cmdline STRING    Kernel command line; for Linux, console=ttyS0 makes it use
                      the serial port
  --engine ENGINE     What executes the guest's instructions (default: auto)
                        auto       the fastest that works here; says which, why
                        kvm        the Linux kernel's hypervisor, /dev/kvm
                        translate  the guest's own instructions, rewritten, in
                                   sandboxed processes; needs no /dev/kvm
                        interpret  works on every host, slowly
                      Several, such as interpret,translate: the guest starts on
                      the first and changes to the next, round and round, while
                      it runs. For tests; not with kvm or auto
  --switch-at N       How many instructions the first of several engines runs
                      before the guest changes; N,M,...: the second, and so on.
                      Only interpret counts. SIGUSR2 ends any engine's turn
  --lock-step[=N]     Check translate: the interpreter runs what each block runs
                      (with N: each new one, and one in N), and the first
                      difference ends the machine, with both states
  --memory SIZE       Guest memory, with suffix K, M or G (default: 512M)
  --cpus N            Number of processors, 1 to 64 (default: 1)
  --console WHERE     The first serial port (default: stdio)
                        stdio        this terminal
                        none         thrown away
                        file:PATH    written to a file, nothing to read
                        socket:PATH  a Unix socket that one client connects to
  --disk FILE[,KEY=VALUE...]
                      A virtio disk; several: vda, vdb, ... in this order, those
                      with transport=mmio behind the others. Keys:
                        format=raw|qcow2   instead of looking at the file
                        readonly           the guest cannot write
                        cache=writeback    the host caches, flushes are kept
                              none         past the host's cache
                              unsafe       flushes do nothing
                        serial=TEXT  queues=N  snapshot=NAME  io=uring|threads
                        bps=SIZE  iops=N  bps_burst=SIZE  iops_burst=N
  --disk vhost-user:SOCKET[,queues=N]
                      A virtio disk of another process, such as
                      qemu-storage-daemon
  --scsi-disk FILE[,KEY=VALUE...]
                      A disk at a virtio SCSI host; several: sda, sdb, ... Keys
                      as for --disk, but queues
  --net NETWORK[,KEY=VALUE...]
                      A virtio network card; several: eth0, eth1, ... Networks:
                        user         the host's sockets, no rights needed: DHCP,
                                     DNS, the host is 10.0.2.2. Keys:
                                     hostfwd=tcp|udp:[ADDR]:PORT-[ADDR]:PORT
                                     net=10.0.2.0/24  dns=ADDR  hostname=NAME
                                     restrict=on  loopback=off  ipv6=off
                        tap          a tap device of the host: name=TAP queues=N
                        stream:PATH  frames over a Unix socket, to another
                                     machine or passt: server=on  reconnect=SECS
                        vhost-user:PATH  a switch in another process; mac= and
                                     mtu= only
                      Keys of all: mac=ADDR mtu=N pcap=FILE
                        bps=SIZE  pps=N  bps_burst=SIZE  pps_burst=N
  --share DIR,tag=NAME[,KEY=VALUE...]
                      A folder of the host, over virtiofsd; the guest says
                      mount -t virtiofs NAME /mnt; several. Keys:
                        readonly  cache=auto|none|always
  --fs vhost-user:SOCKET,tag=NAME
                      The same, of a virtiofsd that is running
  --rng on|off        Virtio entropy from the host (default: on)
  --balloon SIZE      Virtio balloon: the guest gives up SIZE at its start (0 is
                      possible) and returns memory that is free. Keys:
                      reporting=off, deflate-on-oom=off
  --pmem FILE[,KEY=VALUE...]
                      A file as memory of the guest, /dev/pmem0 in Linux; its
                      size is a multiple of 2M. Keys:
                        size=SIZE          make the file if there is none
                        readonly           the guest's writes have no effect
  --vsock PATH[,cid=N]
                      Virtio sockets; the guest's CID is 3 or N. A client of the
                      Unix socket PATH that writes "CONNECT PORT" and a newline
                      is answered "OK PORT" and connected to that port of the
                      guest; the guest reaches port N of CID 2 at PATH_N
  --virtio-console WHERE
                      A console, hvc0 in Linux; WHERE as for --console
  --port NAME=WHERE   A virtio port with a name; several
                      Each virtio option but --port also takes the keys
                        transport=pci|mmio  legacy=on|off
                        access-platform=on|off
                        without=FEATURE[+FEATURE...], FEATURE one of packed,
                                event-idx, indirect, or a feature bit's number
  --no-reboot         End, with status 0, when the guest restarts the machine
  --debug-exit PORT   End with exit status (V << 1) | 1 when the guest writes V
                      to this I/O port, such as 0xf4 (default: off)
  --stats[=json]      At the end, on stderr: engine, time and where it went,
                      instructions, exits by cause, interpreter fallbacks;
                      'doppel stats' prints the same while the guest runs
  --help              Print this text

Keys on the console, when it is a terminal:
  Ctrl-A x            end the virtual machine
  Ctrl-A h            list the keys
  Ctrl-A Ctrl-A       send one Ctrl-A to the guest

Exit status:
  0  the guest powered off        3  the host lacks something, named
  2  bad usage                    4  the guest ended badly (triple fault)
  or what --debug-exit made of the guest's value, always odd

Examples:
  A Debian kernel with a shell, on the fastest engine:
    doppel run --kernel vmlinuz --initrd initramfs.gz --cmdline console=ttyS0

  The same without /dev/kvm, 1 GiB, counting what happened:
    doppel run --engine translate --memory 1G --stats \
        --kernel vmlinuz --initrd initramfs.gz --cmdline console=ttyS0

  A Linux on a disk of its own:
    doppel run --kernel vmlinuz --initrd initrd.img --disk root.qcow2 \
        --cmdline 'console=ttyS0 root=/dev/vda1'

  A guest with a network, and its port 22 as port 2222 of this host:
    doppel run --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0 \
        --net user,hostfwd=tcp:127.0.0.1:2222-:22

  Two guests on one link; the other one without server=on:
    doppel run --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0 \
        --net stream:/tmp/link,server=on

  A test kernel that reports through a port, its console kept in a file:
    doppel run --kernel test.elf --debug-exit 0xf4 --console file:test.log
)";

const std::string_view stats_help =
    R"(Prints what --stats prints, of a virtual machine that is running.

Usage: doppel stats [PID] [OPTIONS]

  PID                 The process of 'doppel run'; not needed when only one is
                      running
  --json              One line of JSON instead of text
  --watch SECONDS     Again every so many seconds (0.1 or more), until the VM
                      ends
  --help              Print this text

Virtual machines of the same user are found by their sockets, doppel/PID.sock in
$XDG_RUNTIME_DIR, or without that variable in /run/user/UID (for root: /run).
One that could not make its socket there runs all the same, but cannot be asked.
Asking takes the guest a fraction of a millisecond.

Examples:
  doppel stats
  doppel stats 4711 --json --watch 5
)";

const std::string_view doctor_help =
    R"(Says what this host offers to a hypervisor, and which engines will work.

Usage: doppel doctor

Changes nothing and needs no privileges. The last line is what --engine auto
means on this host: kvm where it has hardware support, else translate where that
works, else interpret. The exit status is 0 when at least one engine works.

Example:
  doppel doctor
)";

}  // namespace doppel::cli
