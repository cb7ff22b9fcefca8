// A zygote, a user process and guest RAM, and hand-written code for the code cache.
#pragma once

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "engine/translate/link/user_program.h"
#include "engine/translate/space/user_process.h"
#include "x86/registers.h"

namespace doppel::engine::translate
{

using Clock = std::chrono::steady_clock;

inline constexpr std::uint64_t ram_size = 16 << 20;
inline constexpr std::uint64_t page = 4096;
inline constexpr std::uint64_t guest = 0x555555554000;  // where guest programs like to be
inline constexpr std::uint32_t site = 77;
inline constexpr std::uint64_t page_fault = 14, debug_exception = 1;
inline constexpr std::uint64_t error_write = 2, error_user = 4;

inline std::int64_t ns_since(Clock::time_point start)
{
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

// Host code in the code cache, byte by byte.
class Assembler
{
public:
    Assembler(std::span<std::uint8_t> code, std::uint64_t at) : code_(code), at_(at) {}
    Assembler& bytes(std::initializer_list<unsigned> values)
    {
        for (const unsigned value : values) code_[at_++] = static_cast<std::uint8_t>(value);
        return *this;
    }
    Assembler& value(std::uint64_t value, unsigned size)
    {
        for (unsigned i = 0; i < size; ++i)
            code_[at_++] = static_cast<std::uint8_t>(value >> 8 * i);
        return *this;
    }
    Assembler& displacement(std::uint64_t target, unsigned behind)
    {
        return value(target - (user_code + at_ + 4 + behind), 4);
    }
    // mov dword [rip + ExecContext::exit], number; jmp common_exit
    Assembler& leave(std::uint32_t number)
    {
        bytes({0xc7, 0x05}).displacement(user_context + context_offset::exit, 4).value(number, 4);
        return bytes({0xe9}).displacement(user_common_exit, 0);
    }
    [[nodiscard]] std::uint64_t host() const { return user_code + at_; }

private:
    std::span<std::uint8_t> code_;
    std::uint64_t at_;
};

class UserProcessTest : public testing::Test
{
protected:
    void SetUp() override { start({}); }

    void start(UserProcesses::Config config)
    {
        process_ = nullptr;
        processes_.reset();
        ram_fd_ = base::Fd{::memfd_create("ram", MFD_CLOEXEC)};
        ASSERT_EQ(::ftruncate(ram_fd_.get(), ram_size), 0);
        auto ram =
            base::MappedRegion::map(ram_size, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd_.get());
        ASSERT_TRUE(ram);
        ram_ = std::move(*ram);
        auto program = user_program_file();
        ASSERT_TRUE(program) << program.error().text();
        config.ram_fd = ram_fd_.get();
        config.program_fd = program->get();
        config.attention = &attention_;
        auto processes = UserProcesses::create(config);
        ASSERT_TRUE(processes) << processes.error().text();
        processes_ = std::move(*processes);
        auto process = processes_->start();
        ASSERT_TRUE(process) << process.error().text();
        process_ = *process;
    }

    ExecContext& context() { return process_->context(); }
    Assembler code(std::uint64_t at = 0) { return Assembler{processes_->code(), at}; }
    static UserMapping mapping(std::uint64_t address, std::uint64_t length, std::uint64_t offset,
                               std::uint32_t prot = PROT_READ | PROT_WRITE)
    {
        return {address, length, offset, prot, 0};
    }
    template <typename T>
    T& ram(std::uint64_t offset)
    {
        return *reinterpret_cast<T*>(ram_.data() + offset);
    }
    std::optional<std::uint32_t> run(std::uint32_t actions = 0)
    {
        return process_->enter(actions, user_code);
    }
    static std::vector<std::string> foreign_mappings(int pid)
    {
        std::vector<std::string> found;
        std::ifstream maps{"/proc/" + std::to_string(pid) + "/maps"};
        for (std::string line; std::getline(maps, line);) {
            const std::uint64_t begin = std::stoull(line, nullptr, 16);
            if ((begin < user_image || begin >= user_engine_end) &&
                line.find("[vsyscall]") == std::string::npos) {
                found.push_back(line);
            }
        }
        return found;
    }

    std::atomic<std::uint32_t> attention_{0};
    base::Fd ram_fd_;
    base::MappedRegion ram_;
    std::unique_ptr<UserProcesses> processes_;
    UserProcess* process_ = nullptr;
};

}  // namespace doppel::engine::translate
