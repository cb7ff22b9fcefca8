#include <fmt/format.h>

#include "cli/choose_engine.h"
#include "cli/command.h"
#include "cli/host.h"

namespace doppel::cli {

namespace {

// At most 80 columns: what does not fit goes on in further lines, between words.
std::string line(std::string_view name, std::string_view value)
{
    constexpr std::size_t room = 80 - 16;
    std::string text;
    while (value.size() > room) {
        std::size_t end = value.rfind(' ', room);
        if (end == std::string_view::npos || end == 0) end = room;
        text += fmt::format("  {:<14}{}\n", name, value.substr(0, end));
        value.remove_prefix(value[end] == ' ' ? end + 1 : end);
        name = "";
    }
    return text + fmt::format("  {:<14}{}\n", name, value);
}

std::string works(const std::string& problem)
{
    return problem.empty() ? "yes" : "no: " + problem;
}

std::string kvm_text(const Host& host)
{
    const std::string modules = host.kvm_modules.empty() ? "" : " (" + host.kvm_modules + ")";
    using Kind = engine::KvmProbe::Kind;
    switch (host.kvm.kind) {
        case Kind::hardware:
            return (host.hypervisor ? "hardware, nested" : "hardware") + modules;
        case Kind::emulated: return fmt::format("emulated at {:.1f} million instructions/s{}", host.kvm.mips, modules);
        case Kind::missing: break;
    }
    return "no: /dev/kvm: " + host.kvm.problem;
}

std::string kvm_engine_text(const Host& host)
{
    using Kind = engine::KvmProbe::Kind;
    switch (host.kvm.kind) {
        case Kind::hardware: return "works";
        case Kind::emulated: return "boots kernels, slowly; their programs may fail";
        case Kind::missing: break;
    }
    return "does not work: /dev/kvm: " + host.kvm.problem;
}

std::string report(const Host& host)
{
    const EngineChoice choice = choose_engine(host);
    std::string text = "Host\n";
    text += line("processor", fmt::format("{} x {}", host.processors, host.cpu_model));
    text += line("", host.hypervisor ? "a virtual machine itself" : "no hypervisor below");
    text += line("memory", fmt::format("{} MiB with swap", host.memory_bytes >> 20));
    text += line("KVM", kvm_text(host));
    text += line("PKU", host.pku ? "yes" : "no");
    text += line("FSGSBASE", host.fsgsbase ? "yes" : "no");
    text += line("userfaultfd", works(host.userfaultfd_problem));
    text += line("io_uring", works(host.io_uring_problem));
    text += line("map count", fmt::format("{} mappings per process", host.map_count));
    text += line("huge pages", fmt::format("transparent: {}; reserved: {} free of {} KiB",
                                           host.transparent_huge_pages, host.huge_pages_free,
                                           host.huge_page_kib));
    text += "\nEngines\n";
    text += line("kvm", kvm_engine_text(host));
    text += line("translate", host.translate_problem.empty()
                                      ? "works"
                                      : "does not work: " + host.translate_problem);
    text += line("interpret", "works");
    text += line("auto", fmt::format("means {} here", engine::name(choice.kind)));
    return text;
}

}  // namespace

int doctor_command(const Arguments& arguments)
{
    if (!arguments.empty()) {
        if (arguments.size() == 1 && (arguments[0] == "--help" || arguments[0] == "-h")) {
            return print(doctor_help);
        }
        return fail(base::usage_error("doctor: takes no arguments, found '" + arguments[0] + "'"));
    }
    return print(report(probe_host()));
}

}  // namespace doppel::cli
