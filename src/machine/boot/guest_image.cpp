#include "machine/boot/guest_image.h"

#include "machine/layout.h"

namespace doppel::machine::boot {

base::Result<std::unique_ptr<GuestImage>> GuestImage::prepare(const GuestFiles& files,
                                                              std::uint64_t ram_bytes,
                                                              const acpi::Topology& topology)
{
    std::unique_ptr<GuestImage> image{new GuestImage};
    image->kernel_ = TRY(ImageFile::read("--kernel", files.kernel, ram_bytes));
    if (!files.initrd.empty()) {
        image->initrd_ = TRY(ImageFile::read("--initrd", files.initrd, ram_bytes));
    }
    image->tables_ = acpi::make_tables(topology, layout::acpi_start);
    BootRequest& request = image->request_;
    request.kernel = image->kernel_.bytes();
    request.kernel_name = files.kernel;
    if (image->initrd_) request.initrd = image->initrd_->bytes();
    request.initrd_name = files.initrd;
    request.cmdline = files.cmdline;
    request.memory_map = make_memory_map(ram_bytes);
    request.rsdp = layout::acpi_start;
    image->plan_ = TRY(plan_boot(request));
    return image;
}

base::Result<void> GuestImage::load(memory::GuestMemory& memory) const
{
    ASSERT(memory.load(base::Gpa{tables_.start}, tables_.bytes));
    return boot::load(plan_, memory);
}

}  // namespace doppel::machine::boot
