#include "machine/boot/elf.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace doppel::machine::boot {

namespace {

constexpr std::uint32_t xen_elfnote_phys32_entry = 18;
constexpr std::size_t max_program_headers = 128;

base::Error truncated(std::string_view what, std::size_t size)
{
    return base::usage_error(
        fmt::format("the ELF image is truncated: its {} ends beyond the file's {} bytes; copy it "
                    "again",
                    what, size));
}

// One PT_NOTE segment: u32 name size, u32 descriptor size, u32 type, name, descriptor, each
// padded to `align`.
std::optional<std::uint64_t> find_pvh_note(std::span<const std::byte> notes, std::uint64_t align)
{
    const std::size_t pad = align == 8 ? 7 : 3;
    base::ByteReader reader{notes};
    while (reader.remaining() >= 12) {
        const std::size_t name_size = *reader.read<std::uint32_t>();
        const std::size_t descriptor_size = *reader.read<std::uint32_t>();
        const auto type = *reader.read<std::uint32_t>();
        const auto note_name = reader.read_bytes(name_size);
        if (!note_name || !reader.seek((reader.position() + pad) & ~pad)) break;
        const auto descriptor = reader.read_bytes(descriptor_size);
        if (!descriptor) break;
        if (type == xen_elfnote_phys32_entry && name_size == 4 &&
            std::memcmp(note_name->data(), "Xen", 4) == 0 &&
            (descriptor_size == 4 || descriptor_size == 8)) {
            return base::load_bytes(*descriptor);
        }
        if (!reader.seek((reader.position() + pad) & ~pad)) break;
    }
    return std::nullopt;
}

template <typename Header, typename ProgramHeader>
base::Result<ElfImage> parse(std::span<const std::byte> image, bool is_64bit)
{
    if (image.size() < sizeof(Header)) return truncated("header", image.size());
    const auto header = base::load_le<Header>(image.data());
    const std::uint16_t machine = is_64bit ? std::uint16_t{EM_X86_64} : std::uint16_t{EM_386};
    if (header.e_machine != machine) {
        return base::usage_error(fmt::format(
            "an ELF image for machine type {}, not for x86; give an x86 kernel", header.e_machine));
    }
    if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
        return base::usage_error("an ELF file that is not an executable; give a linked kernel");
    }
    if (header.e_phnum == 0 || header.e_phnum > max_program_headers ||
        header.e_phentsize != sizeof(ProgramHeader)) {
        return base::usage_error(
            fmt::format("an ELF image with {} program headers of {} bytes, which no kernel has",
                        header.e_phnum, header.e_phentsize));
    }
    const std::uint64_t table_size = std::uint64_t{header.e_phnum} * sizeof(ProgramHeader);
    if (header.e_phoff > image.size() || table_size > image.size() - header.e_phoff) {
        return truncated("program header table", image.size());
    }

    ElfImage elf;
    elf.is_64bit = is_64bit;
    elf.entry = header.e_entry;
    for (std::size_t i = 0; i < header.e_phnum; ++i) {
        const auto program = base::load_le<ProgramHeader>(image.data() + header.e_phoff +
                                                          i * sizeof(ProgramHeader));
        if (program.p_type != PT_LOAD && program.p_type != PT_NOTE) continue;
        if (program.p_offset > image.size() || program.p_filesz > image.size() - program.p_offset) {
            return truncated(program.p_type == PT_LOAD ? "loadable segment" : "note segment",
                             image.size());
        }
        if (program.p_type == PT_NOTE) {
            if (!elf.pvh_entry) {
                elf.pvh_entry = find_pvh_note(image.subspan(program.p_offset, program.p_filesz),
                                              program.p_align);
            }
            continue;
        }
        if (program.p_filesz > program.p_memsz ||
            program.p_paddr > ~std::uint64_t{0} - program.p_memsz) {
            return base::usage_error(
                fmt::format("the ELF segment at {:#x} has impossible sizes (file {:#x}, memory "
                            "{:#x}); the image is damaged",
                            program.p_paddr, program.p_filesz, program.p_memsz));
        }
        if (program.p_memsz == 0) continue;
        elf.segments.push_back({program.p_offset, program.p_filesz, program.p_vaddr,
                                program.p_paddr, program.p_memsz, (program.p_flags & PF_X) != 0});
    }
    if (elf.segments.empty()) {
        return base::usage_error("an ELF image with nothing to load; give a linked kernel");
    }
    return elf;
}

}  // namespace

bool is_elf(std::span<const std::byte> image)
{
    return image.size() >= SELFMAG && std::memcmp(image.data(), ELFMAG, SELFMAG) == 0;
}

base::Result<ElfImage> parse_elf(std::span<const std::byte> image)
{
    if (image.size() < EI_NIDENT) return truncated("header", image.size());
    if (std::to_integer<int>(image[EI_DATA]) != ELFDATA2LSB) {
        return base::usage_error("a big-endian ELF image; give an x86 kernel");
    }
    switch (std::to_integer<int>(image[EI_CLASS])) {
    case ELFCLASS32: return parse<Elf32_Ehdr, Elf32_Phdr>(image, false);
    case ELFCLASS64: return parse<Elf64_Ehdr, Elf64_Phdr>(image, true);
    default: return base::usage_error("an ELF image of unknown class; the image is damaged");
    }
}

base::Result<std::uint64_t> reserve_segments(const ElfImage& elf, Placer& placer)
{
    std::uint64_t end = 0;
    for (const ElfSegment& segment : elf.segments) {
        TRY(placer.reserve(segment.physical_address, segment.memory_size, "the kernel's segment"));
        end = std::max(end, segment.physical_address + segment.memory_size);
    }
    return end;
}

}  // namespace doppel::machine::boot
