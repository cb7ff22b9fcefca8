// A request under way: clusters that it may have seen are not reused before its end.
#pragma once

#include "backends/block/qcow2/qcow2_image.h"

namespace doppel::backends::qcow2 {

class Qcow2Image::Operation {
public:
    explicit Operation(Qcow2Image& image) : image_(image)
    {
        const std::lock_guard lock{image_.metadata_};
        at_ = image_.operations_.insert(++image_.epoch_);
    }
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    ~Operation()
    {
        const std::lock_guard lock{image_.metadata_};
        image_.operations_.erase(at_);
    }

private:
    Qcow2Image& image_;
    std::multiset<std::uint64_t>::iterator at_;
};

}  // namespace doppel::backends::qcow2
