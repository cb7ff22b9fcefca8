#include "backends/character/file.h"

#include <fcntl.h>
#include <signal.h>

#include <cerrno>

namespace doppel::backends {

base::Result<std::unique_ptr<FileBackend>> FileBackend::create(
    base::EventLoop& loop, const std::string& path, Mode mode,
    std::function<void(const base::Error&)> failed)
{
    const int disposition = mode == Mode::truncate ? O_TRUNC : O_APPEND;
    // Non-blocking, so that a FIFO without a reader is an error and not a wait.
    const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | disposition;
    base::Fd fd{::open(path.c_str(), flags, 0666)};
    const std::string what = "--console file:" + path;
    if (!fd.valid()) {
        return base::errno_error(base::ErrorKind::io, what + ": cannot open it for writing", errno);
    }
    ::signal(SIGPIPE, SIG_IGN);
    std::unique_ptr<FileBackend> backend{new FileBackend{loop}};
    backend->output_->attach(std::move(fd));
    backend->output_->set_failed_callback([what, failed = std::move(failed)](int error) {
        if (failed) {
            failed(base::errno_error(base::ErrorKind::io, what + ": cannot write", error));
        }
    });
    return backend;
}

FileBackend::~FileBackend()
{
    output_->set_writable_callback({});
    output_->set_failed_callback({});
    output_->flush();
    output_->detach();
}

void FileBackend::set_writable_callback(std::function<void()> callback)
{
    output_->set_writable_callback(std::move(callback));
}

}  // namespace doppel::backends
