// What this host offers to a hypervisor: the facts behind `doctor` and `--engine auto`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/host_probe.h"

namespace doppel::cli {

struct Host {
    engine::KvmProbe kvm;         // measured
    std::string translate_problem;  // empty: the translate engine works
    std::string kvm_modules;      // "kvm_intel", "kvm_pvm", ...; empty when built in
    bool hypervisor = false;      // this host is a guest itself
    std::string cpu_model;
    bool pku = false;
    bool fsgsbase = false;
    std::string userfaultfd_problem, io_uring_problem;   // empty: works
    std::uint64_t map_count = 0;
    std::string transparent_huge_pages;  // "madvise", ...
    std::uint64_t huge_pages_free = 0, huge_page_kib = 0;
    unsigned processors = 0;
    std::uint64_t memory_bytes = 0;      // and swap
};

// Looks; changes nothing.
Host probe_host();

}  // namespace doppel::cli
