// What a guest is started from: its files, the machine's ACPI tables, and the plan of where
// all of it goes. Made, and thereby checked, before anything of the machine exists.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "machine/acpi/tables.h"
#include "machine/boot/boot.h"
#include "machine/boot/image_file.h"
#include "machine/memory_map.h"

namespace doppel::machine::boot {

struct GuestFiles {
    std::string kernel;  // path
    std::string initrd;  // path, empty: none
    std::string cmdline;
};

class GuestImage {
public:
    // Errors are one-line usage errors that name the option.
    static base::Result<std::unique_ptr<GuestImage>> prepare(const GuestFiles& files,
                                                             std::uint64_t ram_bytes,
                                                             const acpi::Topology& topology);

    [[nodiscard]] const BootRequest& request() const { return request_; }
    [[nodiscard]] const BootPlan& plan() const { return plan_; }
    [[nodiscard]] const acpi::TableSet& tables() const { return tables_; }

    // Everything into cleared guest memory.
    base::Result<void> load(memory::GuestMemory& memory) const;

private:
    GuestImage() = default;
    ImageFile kernel_;
    std::optional<ImageFile> initrd_;
    acpi::TableSet tables_;
    BootRequest request_;
    BootPlan plan_;
};

}  // namespace doppel::machine::boot
