// A folder of the host for a guest: virtiofsd as a child process, started when it is needed, and
// again when it has ended. It dies with this process.
//
// Its socket never has a name that others could connect to: the connection is made before virtiofsd
// runs, and it is given the listening end.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "backends/vhost_user/source.h"

namespace doppel::backends::vhost_user {

struct ShareOptions {
    std::string folder;
    bool read_only = false;     // by a mount that only virtiofsd sees; needs CAP_SYS_ADMIN
    std::string cache = "auto";  // none, auto or always
};

class Virtiofsd final : public Source {
public:
    // Errors: no such folder, or no virtiofsd on this host.
    static base::Result<std::unique_ptr<Virtiofsd>> create(const ShareOptions& options);
    ~Virtiofsd() override;

    [[nodiscard]] base::Result<base::Fd> connect() override;
    [[nodiscard]] std::string ended() override;
    [[nodiscard]] std::string name() const override { return "--share " + options_.folder; }

private:
    explicit Virtiofsd(ShareOptions options) : options_(std::move(options)) {}
    // The child's end: never returns.
    [[noreturn]] void become(char* const* arguments, int listener, pid_t parent) const noexcept;

    ShareOptions options_;
    std::string program_;
    pid_t child_ = -1;
};

}  // namespace doppel::backends::vhost_user
