// What --help prints for `doppel image`, at most 80 columns wide.
#include "cli/image_commands.h"

namespace doppel::cli {

const std::string_view image_help =
    R"(Makes and looks after disk images.

Usage: doppel image COMMAND [OPTIONS] FILE...

Commands:
  create     a new, empty image, or one on top of another
  info       what an image is: format, size, backing files, snapshots
  check      whether a qcow2 image is consistent; repairs it if asked to
  convert    copy an image into another format
  resize     make the disk larger, or smaller
  debian     a Debian system that boots, made from packages

Formats: raw (the disk's bytes; unwritten parts take no space) and qcow2.
A FILE may also be an NBD URI, where that makes sense:
nbd://host/export or nbd+unix:///export?socket=PATH.

Examples:
  doppel image create disk.qcow2 20G
  doppel image info disk.qcow2
  doppel image convert -O raw disk.qcow2 disk.img
  doppel image convert --help
)";

const std::string_view image_create_help =
    R"(Makes a new disk image. It takes almost no space until it is written to.

Usage: doppel image create [OPTIONS] FILE [SIZE]

SIZE has a suffix K, M, G or T. With -b it may be left out.

  -f, --format FORMAT     raw or qcow2 (default: qcow2 when FILE ends in .qcow2,
                          else raw)
  -b, --backing FILE      The content is FILE's until it is overwritten; FILE
                          must not be changed from then on. A relative name is
                          relative to the new image. qcow2 only
  -F, --backing-format F  The format of the backing file (default: recognised)
  --cluster-size SIZE     512 to 2M (default: 64K). qcow2 only
  --compression TYPE      For clusters that 'convert -c' compresses: zlib
                          (default) or zstd. qcow2 only
  --version N             2 for programs from before 2013 (default: 3)
  --force                 Replace a file that is there
  --help                  Print this text

Examples:
  doppel image create disk.qcow2 20G
  doppel image create -b debian.qcow2 test.qcow2
)";

const std::string_view image_info_help =
    R"(Says what an image is. Also while a virtual machine is using it.

Usage: doppel image info [OPTIONS] FILE

  -f, --format FORMAT   raw or qcow2 (default: recognised by content)
  --json                The same for programs, with the names of qemu-img's JSON
  --help                Print this text

Example:
  doppel image info --json disk.qcow2
)";

const std::string_view image_check_help =
    R"(Checks whether the tables of a qcow2 image agree, without changing anything.

Usage: doppel image check [OPTIONS] FILE

  --repair leaks   Give back space that is taken and unused, as crashes leave it
  --repair all     Also count all clusters anew where counts are wrong. Make a
                   copy first: damage that put wrong data into the image stays
  -f, --format F   raw or qcow2 (default: recognised); raw has nothing to check
  --json           The result for programs
  --help           Print this text

Exit status:
  0  consistent, or all repaired    4  damaged
  2  cannot be checked              5  only space is lost (leaks)

Example:
  doppel image check --repair leaks disk.qcow2
)";

const std::string_view image_convert_help =
    R"(Copies a disk into a new image. What is zero takes no space in it.

Usage: doppel image convert [OPTIONS] FROM TO

  -f, --format FORMAT       Of FROM: raw or qcow2 (default: recognised)
  -O, --output-format F     Of TO: raw or qcow2 (default: qcow2 when TO ends in
                            .qcow2, else raw)
  -c, --compress            Compress every cluster. qcow2 only
  --compression TYPE        zlib (default) or zstd
  --cluster-size SIZE       512 to 2M (default: 64K). qcow2 only
  -b, --backing FILE        Store only what differs from FILE
  -F, --backing-format F    The format of the backing file (default: recognised)
  --snapshot NAME           The disk as it was at an internal snapshot of FROM
  -q, --quiet               No progress (there is none without a terminal)
  --help                    Print this text

A file TO that is there is replaced; an NBD export is overwritten.

Examples:
  doppel image convert -O qcow2 -c disk.img disk.qcow2
  doppel image convert -b debian.qcow2 full.qcow2 difference.qcow2
)";

const std::string_view image_resize_help =
    R"(Changes the size of a disk. The partitions in it are the guest's to change.

Usage: doppel image resize [OPTIONS] FILE [+|-]SIZE

SIZE has a suffix K, M, G or T; with + or - it is added or taken away.

  -f, --format FORMAT   raw or qcow2 (default: recognised by content)
  --shrink              Allow a smaller disk: what was at its end is lost
  --help                Print this text

Example:
  doppel image resize disk.qcow2 +10G
)";

const std::string_view image_debian_help =
    R"(Makes a disk with a small Debian system that boots: systemd, network by DHCP, a
console on the serial port, an SSH server. Its kernel and initial RAM disk go to
files beside it, FILE's name with .vmlinuz and .initrd. Needs root, the network,
and the packages debootstrap and e2fsprogs.

Usage: doppel image debian [OPTIONS] FILE

  --size SIZE        Of the disk, which takes only what is in it (default: 8G)
  --packages A,B     More packages
  --ssh-key FILE     Public key that may log in as root; at the console root needs
                     no password, through the network it needs this key
  --suite NAME       Debian release (default: bookworm)
  --mirror URL       Where to get packages (default: debootstrap's own)
  --hostname NAME    Default: debian
  -f, --format F     raw or qcow2 (default: by FILE's name)
  --force            Replace files that are there
  --help             Print this text

Example:
  sudo doppel image debian --ssh-key ~/.ssh/id_ed25519.pub debian.qcow2
)";

}  // namespace doppel::cli
