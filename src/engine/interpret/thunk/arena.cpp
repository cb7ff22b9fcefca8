#include "engine/interpret/thunk/arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "x86/cpuid.h"

namespace doppel::engine::interpret::thunk {

base::Result<Arena> Arena::create(std::size_t size)
{
    Arena arena;
    arena.fd_ = base::Fd{::memfd_create("doppel-thunks", MFD_CLOEXEC)};
    if (!arena.fd_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create memory for thunks", errno);
    }
    if (::ftruncate(arena.fd_.get(), static_cast<off_t>(size)) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot size memory for thunks", errno);
    }
    arena.write_ = TRY(base::MappedRegion::map(size, PROT_READ | PROT_WRITE, MAP_SHARED,
                                               arena.fd_.get()));
    arena.execute_ = TRY(base::MappedRegion::map(size, PROT_READ | PROT_EXEC, MAP_SHARED,
                                                 arena.fd_.get()));
    return arena;
}

const std::uint8_t* Arena::place(std::span<const std::uint8_t> code)
{
    constexpr std::size_t alignment = 32;
    const std::size_t start = (used_ + alignment - 1) & ~(alignment - 1);
    if (start + code.size() > write_.size()) return nullptr;
    // A thunk that works element by element has no code of its own, only a place.
    if (!code.empty()) std::memcpy(write_.data() + start, code.data(), code.size());
    used_ = start + code.size();
    return reinterpret_cast<const std::uint8_t*>(execute_.data() + start);
}

void Arena::clear()
{
    used_ = 0;
    // Code that has run is about to be overwritten through another linear address: SDM
    // volume 3 section 9.1.3 wants a serialising instruction before the new code runs.
    (void)x86::this_host().query(0, 0);
}

}  // namespace doppel::engine::interpret::thunk
