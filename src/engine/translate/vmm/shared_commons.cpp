#include "engine/translate/vmm/shared_commons.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>

namespace doppel::engine::translate {

base::Result<SharedCommons> SharedCommons::create(const EngineConfig& config)
{
    const std::uint64_t size = commons_size(config.memory.end());
    SharedCommons made;
    made.fd_ = base::Fd{::memfd_create("doppel-commons", MFD_CLOEXEC)};
    if (!made.fd_.valid() || ::ftruncate(made.fd_.get(), static_cast<off_t>(size)) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a memfd", errno);
    }
    made.region_ = TRY(base::MappedRegion::map(size, PROT_READ | PROT_WRITE,
                                               MAP_SHARED | MAP_NORESERVE, made.fd_.get()));
    // SAFETY: the region is page-aligned and has room for both. What is not written is the zeros of
    // a new file, which are atomics of zero; no more of it is touched than is used.
    made.commons_ = std::launder(reinterpret_cast<Commons*>(made.region_.data()));
    made.code_map_ =
        reinterpret_cast<std::atomic<std::uint64_t>*>(made.region_.data() + commons_code_map);
    made.commons_->vcpus = config.vcpus;
    return made;
}

}  // namespace doppel::engine::translate
