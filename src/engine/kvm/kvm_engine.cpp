// The kvm engine: a VM with KVM's PIC, I/O APIC and local APICs over our guest memory. The
// timer (PIT) is a device of ours, on GSI 0.
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <vector>

#include "base/log.h"
#include "bus/doorbell_set.h"
#include "engine/engine.h"
#include "engine/kvm/api.h"
#include "engine/host_probe.h"
#include "engine/kvm/cpuid.h"
#include "engine/kvm/device.h"
#include "engine/kvm/vcpu.h"

namespace doppel::engine {

namespace {

using namespace kvm;  // NOLINT: this file is that layer's front

// Guest-physical pages that KVM takes for itself on some processors: one identity-mapped page
// table, then three pages of task state. Below the local APIC, where the machine has nothing.
constexpr std::uint64_t identity_map_address = 0xfeffc000, tss_address = 0xfeffd000;

constexpr std::array<std::uint32_t, 3> chips{KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
                                             KVM_IRQCHIP_IOAPIC};
constexpr unsigned ioapic_pins = 24, isa_lines = 16, cascade_line = 2;

kvm_irq_routing_entry route(unsigned gsi, std::uint32_t chip, unsigned pin)
{
    kvm_irq_routing_entry entry{};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    return entry;
}

// GSI 0-15 reach the PICs and the I/O APIC; ISA IRQ 0 is the I/O APIC's pin 2.
RoutingList routing()
{
    RoutingList list;
    const auto add = [&list](const kvm_irq_routing_entry& entry) {
        list.entries[list.count++] = entry;
    };
    for (unsigned gsi = 0; gsi < ioapic_pins; ++gsi) {
        if (gsi == cascade_line) continue;
        if (gsi < isa_lines) {
            add(route(gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8));
        }
        add(route(gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi));
    }
    return list;
}

// KVM watches for the writes itself.
class KvmDoorbells final : public bus::DoorbellSet {
public:
    explicit KvmDoorbells(const base::Fd& vm) : vm_(vm) {}

protected:
    base::Result<void> bound(unsigned, int event, const bus::DoorbellAddress& address) override
    {
        const kvm_ioeventfd wanted = ioeventfd(event, address);
        TRY(checked("KVM_IOEVENTFD", vm_.get(), KVM_IOEVENTFD, &wanted));
        return {};
    }
    void unbound(unsigned, int event, const bus::DoorbellAddress& address) noexcept override
    {
        kvm_ioeventfd gone = ioeventfd(event, address);
        gone.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
        // Fails only for what was never assigned.
        ASSERT(call(vm_.get(), KVM_IOEVENTFD, &gone) == 0);
    }

private:
    static kvm_ioeventfd ioeventfd(int event, const bus::DoorbellAddress& address)
    {
        kvm_ioeventfd result{};
        result.addr = address.address;
        result.len = address.size;
        result.fd = event;
        result.datamatch = address.value.value_or(0);
        if (address.value) result.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
        if (address.space == bus::Space::port) result.flags |= KVM_IOEVENTFD_FLAG_PIO;
        return result;
    }

    const base::Fd& vm_;
};

class KvmEngine final : public Engine, private bus::InterruptSink {
public:
    static base::Result<std::unique_ptr<Engine>> create(const EngineConfig& config)
    {
        Device device = TRY(open_device());
        if (config.vcpus > device.max_vcpus) {
            return base::host_error(fmt::format("KVM here runs at most {} vCPUs, --cpus asks for {}",
                                                device.max_vcpus, config.vcpus));
        }
        const CpuidList supported = TRY(supported_cpuid(device.fd.get()));
        const x86::CpuidPolicy filtered = filter_cpuid(config.cpuid, supported);
        const bool software = probe_kvm().kind == KvmProbe::Kind::emulated;
        const x86::CpuidPolicy completion =
            software ? completion_cpuid(config.cpuid, filtered) : filtered;
        std::unique_ptr<KvmEngine> engine{
            new KvmEngine{config, std::move(device), filtered, completion}};
        TRY(engine->create_vm());
        return std::unique_ptr<Engine>{std::move(engine)};
    }

    EngineKind kind() const override { return EngineKind::kvm; }
    Capabilities capabilities() const override
    {
        Capabilities capabilities;
        capabilities.in_kernel_interrupts = true;
        capabilities.max_vcpus = device_.max_vcpus;
        return capabilities;
    }

    base::Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index) override
    {
        ASSERT(index == vcpus_.size());
        TRY(map_slots());
        const VcpuConfig config{vm_.get(),       device_.run_size, index, config_.memory,
                                config_.clock, cpuid_, completion_cpuid_};
        auto vcpu = TRY(KvmVcpu::create(config));
        vcpus_.push_back(vcpu.get());
        return std::unique_ptr<Vcpu>{std::move(vcpu)};
    }

    bus::InterruptSink* interrupt_sink() override { return this; }
    bus::Doorbells& doorbells() override { return doorbells_; }

    void reset() noexcept override
    {
        for (kvm_irqchip chip : initial_chips_) {
            if (call(vm_.get(), KVM_SET_IRQCHIP, &chip) < 0) ++failed_calls_;
        }
        for (KvmVcpu* vcpu : vcpus_) vcpu->reset();
    }

    void counters(base::CounterList& list) const override
    {
        list.add("kvm.lines_set", lines_set_.load(std::memory_order_relaxed));
        list.add("kvm.msis_sent", msis_sent_.load(std::memory_order_relaxed));
        list.add("kvm.failed_calls", failed_calls_.load(std::memory_order_relaxed));
    }

private:
    KvmEngine(const EngineConfig& config, Device device, const x86::CpuidPolicy& cpuid,
              const x86::CpuidPolicy& completion)
        : config_(config), device_(std::move(device)), cpuid_(cpuid), completion_cpuid_(completion)
    {
    }

    base::Result<void> create_vm()
    {
        vm_ = base::Fd{TRY(checked("KVM_CREATE_VM", device_.fd.get(), KVM_CREATE_VM, 0))};
        const int vm = vm_.get();
        TRY(checked("KVM_SET_IDENTITY_MAP_ADDR", vm, KVM_SET_IDENTITY_MAP_ADDR,
                    &identity_map_address));
        TRY(checked("KVM_SET_TSS_ADDR", vm, KVM_SET_TSS_ADDR, tss_address));
        TRY(checked("KVM_CREATE_IRQCHIP", vm, KVM_CREATE_IRQCHIP, 0));
        const RoutingList list = routing();
        TRY(checked("KVM_SET_GSI_ROUTING", vm, request::SET_GSI_ROUTING, &list));
        // Otherwise user-mode code that KVM cannot emulate gets #UD without a word to us.
        if (device_.exits_on_emulation_failure) {
            kvm_enable_cap enable{};
            enable.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE;
            enable.args[0] = 1;
            TRY(checked("KVM_ENABLE_CAP", vm, KVM_ENABLE_CAP, &enable));
        }
        for (std::size_t i = 0; i < chips.size(); ++i) {
            initial_chips_[i].chip_id = chips[i];
            TRY(checked("KVM_GET_IRQCHIP", vm, KVM_GET_IRQCHIP, &initial_chips_[i]));
        }
        return {};
    }

    base::Result<void> map_slots()
    {
        if (!vcpus_.empty()) return {};
        std::uint32_t number = 0;
        for (const memory::Slot& slot : config_.memory.slots()) {
            kvm_userspace_memory_region region{};
            region.slot = number++;
            region.flags = slot.read_only ? static_cast<std::uint32_t>(KVM_MEM_READONLY) : 0u;
            region.guest_phys_addr = slot.start.value;
            region.memory_size = slot.size;
            region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
            TRY(checked("KVM_SET_USER_MEMORY_REGION", vm_.get(), KVM_SET_USER_MEMORY_REGION, &region));
        }
        return {};
    }

    // bus::InterruptSink
    void set_line(unsigned gsi, bool level) noexcept override
    {
        kvm_irq_level line{};
        line.irq = gsi;
        line.level = level ? 1 : 0;
        lines_set_.fetch_add(1, std::memory_order_relaxed);
        if (call(vm_.get(), KVM_IRQ_LINE, &line) < 0) note_failure("KVM_IRQ_LINE");
    }
    void send_msi(const bus::Msi& message) noexcept override
    {
        kvm_msi msi{};
        msi.address_lo = static_cast<std::uint32_t>(message.address);
        msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
        msi.data = message.data;
        msis_sent_.fetch_add(1, std::memory_order_relaxed);
        // 0 means that the guest masks it, which is its own affair.
        if (call(vm_.get(), KVM_SIGNAL_MSI, &msi) < 0) note_failure("KVM_SIGNAL_MSI");
    }
    void note_failure(const char* what) noexcept
    {
        failed_calls_.fetch_add(1, std::memory_order_relaxed);
        if (base::log_limited(logged_)) spdlog::warn("{} failed: errno {}", what, errno);
    }

    EngineConfig config_;
    Device device_;
    x86::CpuidPolicy cpuid_;
    x86::CpuidPolicy completion_cpuid_;
    base::Fd vm_;
    KvmDoorbells doorbells_{vm_};
    std::array<kvm_irqchip, chips.size()> initial_chips_{};
    std::vector<KvmVcpu*> vcpus_;  // owned by the VM, alive until it stops
    std::atomic<std::uint64_t> lines_set_{0}, msis_sent_{0}, failed_calls_{0};
    std::atomic<std::uint32_t> logged_{0};
};

}  // namespace

base::Result<std::unique_ptr<Engine>> create_kvm_engine(const EngineConfig& config)
{
    return KvmEngine::create(config);
}

}  // namespace doppel::engine
