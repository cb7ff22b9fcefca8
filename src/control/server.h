// A running VM's control socket: DIR/PID.sock, where `doppel stats` asks.
//
//   client ──"stats\n"──▶ Server ──request_stats()──▶ vCPU thread, between two exits
//          ◀─JSON, "\n"──        ◀──── on the loop ────
//
// Requests and answers are lines; a client may ask again on the same connection, when it has
// read the answer. What it does not read waits here, so a slow client holds up only itself.
//
// Threads: all of it on the VM's event loop's thread, or before and after the loop runs.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "vm/vm.h"

namespace doppel::control {

class Server {
public:
    // Calls back once with the statistics, on the loop's thread; vm::Vm::request_stats().
    using StatsSource = std::function<void(std::function<void(vm::VmStats)>)>;

    static constexpr std::size_t clients_max = 16, request_max = 256;

    // Makes `path`, which no other process may listen at; one left behind is replaced.
    static base::Result<std::unique_ptr<Server>> create(base::EventLoop& loop, std::string path,
                                                        StatsSource stats);
    // Removes the path.
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

private:
    struct Client {
        base::Fd fd;
        std::string input, output;
        bool asked = false;  // an answer is on its way
    };

    Server(base::EventLoop& loop, std::string path, base::Fd listener, StatsSource stats);
    void accept_clients();
    void on_client(int number, std::uint32_t events);
    [[nodiscard]] bool read_some(Client& client);
    void serve(int number);
    void answer(int number, const std::string& line);
    [[nodiscard]] bool write_some(Client& client);
    void drop(int number);

    base::EventLoop& loop_;
    std::string path_;
    base::Fd listener_;
    StatsSource stats_;
    std::map<int, std::shared_ptr<Client>> clients_;  // by number, never used twice
    int next_number_ = 0;
    // Answers that come after the server's end find it gone.
    std::shared_ptr<Server*> self_ = std::make_shared<Server*>(this);
};

}  // namespace doppel::control
