// What runs a random stream: the host processor, or an engine with the little world of case.h
// around it, at any of the places that streams are made for.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "generator.h"
#include "native.h"

namespace doppel::conformance {

class StreamMachine {
public:
    virtual ~StreamMachine() = default;
    [[nodiscard]] virtual std::string name() const = 0;
    virtual Outcome run(const Stream& stream) = 0;
    // Of the world's pages, after run(). address: as if the stream had run at low addresses.
    virtual bool read(std::uint64_t address, std::span<std::byte> to) = 0;
    // What the translate engine did in all runs.
    virtual Work work() { return {}; }
};

// The host processor: user code only.
base::Result<std::unique_ptr<StreamMachine>> native_machine();
base::Result<std::unique_ptr<StreamMachine>> engine_machine(const std::string& engine, Place place);

}  // namespace doppel::conformance
