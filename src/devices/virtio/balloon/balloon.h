// Balloon: the guest gives memory back, on demand or when it is free. Virtio 1.2, section 5.5.
//
// Pages in the balloon, and pages that are reported as free, go back to the host at once; the
// guest finds zeros there when it uses them again.
#pragma once

#include <array>
#include <memory>

#include "base/fd.h"
#include "devices/virtio/balloon/registers.h"
#include "devices/virtio/device.h"

namespace doppel::devices::virtio {

class Balloon final : public Device {
public:
    struct Options {
        std::uint32_t target_pages = 0;
        bool deflate_on_oom = true;
        bool reporting = true;  // free pages are reported
    };
    // loop: asks for the guest's statistics now and then.
    static base::Result<std::unique_ptr<Balloon>> create(const Options& options,
                                                         base::EventLoop& loop);
    ~Balloon() override;

    // How large the balloon shall be.
    void set_target(std::uint32_t pages);

    [[nodiscard]] const Identity& identity() const override;
    [[nodiscard]] Features features() const override;
    [[nodiscard]] std::span<const std::byte> config() const override;
    void write_config(std::size_t offset, std::span<const std::byte> data) noexcept override;
    void attach(ConfigListener& listener) override { listener_ = &listener; }
    void activate(Active& active) noexcept override;
    void deactivate() noexcept override;
    void process(unsigned queue) noexcept override;
    void save(base::StateWriter& writer, std::string_view section) const override;
    base::Result<void> load(const base::StateReader& reader, std::string_view section) override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    // Section 5.5.6.3: 0 to 9, and what Linux has since.
    static constexpr std::size_t statistic_count = 16;

    Balloon(const Options& options, base::EventLoop& loop) : options_(options), loop_(loop)
    {
        config_.num_pages = options.target_pages;
    }
    void take_pages(unsigned queue, bool inflate);
    void take_statistics();
    void ask_for_statistics();
    void take_reports(unsigned queue);
    void release(memory::GuestMemory& memory, std::uint64_t first_page, std::uint64_t pages);

    Options options_;
    base::EventLoop& loop_;
    base::Fd timer_;
    ConfigListener* listener_ = nullptr;
    BalloonConfig config_{};
    Active* active_ = nullptr;
    Chain chain_;
    std::array<std::atomic<std::uint64_t>, statistic_count> statistics_{};
    std::atomic<std::uint64_t> actual_{0}, released_{0}, returned_{0}, reported_{0}, refused_{0};
};

}  // namespace doppel::devices::virtio
