#include "machine/fw_cfg/boot_items.h"

#include <algorithm>

#include "base/bytes.h"

namespace doppel::machine {

namespace {

// QEMU's struct e820_entry: u64 address, u64 length, u32 type, packed.
std::vector<std::byte> e820(const MemoryMap& map)
{
    base::ByteWriter out;
    for (const MemoryRange& range : map) {
        out.write(range.start);
        out.write(range.size);
        out.write(static_cast<std::uint32_t>(range.type));
    }
    return out.take();
}

// A bzImage is handed over in two parts, others whole.
std::size_t setup_size(const boot::BootRequest& request, const boot::BootPlan& plan)
{
    if (plan.protocol != boot::Protocol::linux64 && plan.protocol != boot::Protocol::linux32) return 0;
    const std::size_t sectors = std::to_integer<std::size_t>(request.kernel[0x1f1]);
    return std::min(((sectors == 0 ? 4 : sectors) + 1) * 512, request.kernel.size());
}

}  // namespace

void add_boot_items(FwCfg& fw_cfg, const boot::BootRequest& request, const boot::BootPlan& plan,
                    unsigned vcpus, std::uint64_t ram_bytes)
{
    using Key = FwCfg::Key;
    const auto size_of = [](std::span<const std::byte> bytes) {
        return static_cast<std::uint32_t>(bytes.size());
    };
    fw_cfg.add_u64(Key::ram_size, ram_bytes);
    fw_cfg.add_u16(Key::nb_cpus, static_cast<std::uint16_t>(vcpus));
    fw_cfg.add_u16(Key::max_cpus, static_cast<std::uint16_t>(vcpus));
    fw_cfg.add_u16(Key::nographic, 1);

    const std::size_t setup = setup_size(request, plan);
    const auto rest = request.kernel.subspan(setup);
    fw_cfg.add_u32(Key::setup_size, static_cast<std::uint32_t>(setup));
    fw_cfg.add_view(Key::setup_data, request.kernel.first(setup));
    fw_cfg.add_u32(Key::kernel_size, size_of(rest));
    fw_cfg.add_view(Key::kernel_data, rest);
    if (request.initrd) {
        fw_cfg.add_u32(Key::initrd_size, size_of(*request.initrd));
        fw_cfg.add_view(Key::initrd_data, *request.initrd);
    }
    const auto text = std::as_bytes(std::span{request.cmdline.c_str(), request.cmdline.size() + 1});
    fw_cfg.add_u32(Key::cmdline_size, size_of(text));
    fw_cfg.add(Key::cmdline_data, {text.begin(), text.end()});
    fw_cfg.add_file("etc/e820", e820(request.memory_map));
}

}  // namespace doppel::machine
