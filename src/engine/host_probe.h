// What this host's KVM is worth, by trying it: is it there, and does hardware run its guests?
#pragma once

#include <string>

namespace doppel::engine {

struct KvmProbe {
    enum class Kind {
        missing,   // problem says why
        hardware,
        emulated,  // it interprets every instruction: slower than our own interpreter
    };
    Kind kind = Kind::missing;
    std::string problem;
    int version = 0;
    // Guest instructions per second, in millions, in a loop of two instructions. A hardware
    // KVM's value is a lower bound: the loop is over before it is warm.
    double mips = 0;
    bool cpu_flag = false;  // vmx or svm in /proc/cpuinfo
};

// Runs a few ten thousand instructions in a virtual machine of its own: about 10 ms where
// KVM emulates, 1 ms where it does not. Any thread; leaves nothing behind.
KvmProbe probe_kvm();

}  // namespace doppel::engine
