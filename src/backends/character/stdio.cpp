#include "backends/character/stdio.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

namespace doppel::backends {
namespace {

constexpr std::string_view key_help =
    "\r\n"
    "Ctrl-A x       end the virtual machine\r\n"
    "Ctrl-A h       list the keys\r\n"
    "Ctrl-A Ctrl-A  send one Ctrl-A to the guest\r\n";

// A descriptor of our own for the same terminal or pipe, non-blocking without changing
// the open file that our parent shares. Invalid where that cannot be had.
base::Fd reopen_non_blocking(int fd, const struct stat& what)
{
    if (!S_ISFIFO(what.st_mode) && !S_ISCHR(what.st_mode)) return {};
    // Opening /dev/ptmx would make a new terminal instead.
    if (S_ISCHR(what.st_mode) && major(what.st_rdev) == 5 && minor(what.st_rdev) == 2) return {};
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    return base::Fd{::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)};
}

}  // namespace

StdioBackend::StdioBackend(base::EventLoop& loop, ConsoleEvents events, int input_fd,
                           int output_fd)
    : events_(std::move(events)),
      input_fd_(input_fd),
      output_fd_(output_fd),
      output_(std::make_shared<OutputPump>(loop)),
      input_(std::make_shared<InputPump>(loop))
{
}

base::Result<std::unique_ptr<StdioBackend>> StdioBackend::create(base::EventLoop& loop,
                                                                 ConsoleEvents events,
                                                                 int input_fd, int output_fd)
{
    struct stat what {};
    if (::fstat(output_fd, &what) != 0) {
        return base::io_error("--console stdio: standard output is closed; redirect it to a "
                              "file or use --console none");
    }
    ::signal(SIGPIPE, SIG_IGN);
    std::unique_ptr<StdioBackend> backend{
        new StdioBackend{loop, std::move(events), input_fd, output_fd}};
    if (::fcntl(input_fd, F_GETFD) < 0) {
        // At once, or a descriptor opened below could get the number and be read.
        backend->no_input_ = base::Fd{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
        backend->input_fd_ = backend->no_input_.get();
    }
    auto mode = OutputPump::Mode::does_not_block;
    base::Fd output = reopen_non_blocking(output_fd, what);
    if (!output.valid()) {
        output = base::Fd{::fcntl(output_fd, F_DUPFD_CLOEXEC, 3)};
        if (!output.valid()) {
            return base::errno_error(base::ErrorKind::io,
                                     "--console stdio: cannot use standard output", errno);
        }
        // Files do not block, and a socket can be told with every call.
        if (!S_ISREG(what.st_mode) && !S_ISSOCK(what.st_mode)) mode = OutputPump::Mode::may_block;
    }
    backend->output_->attach(std::move(output), mode);
    auto* raw = backend.get();
    backend->output_->set_failed_callback([raw](int error) {
        if (!raw->events_.failed) return;
        raw->events_.failed(base::errno_error(
            base::ErrorKind::io, "--console stdio: cannot write to standard output", error));
    });
    backend->input_->set_end_callback([raw] { raw->input_->push(std::byte{0x04}); });
    loop.post([raw, alive = std::weak_ptr<bool>{backend->alive_}] {
        if (!alive.expired()) raw->begin();
    });
    return backend;
}

StdioBackend::~StdioBackend()
{
    alive_.reset();
    input_->set_input_callback({});
    output_->set_writable_callback({});
    output_->set_failed_callback({});
    input_->detach();
    output_->flush();
    output_->detach();
}

void StdioBackend::begin()
{
    terminal_ = TerminalGuard::make_raw(input_fd_);
    if (terminal_) {
        int waiting = 0;
        if (::ioctl(input_fd_, FIONREAD, &waiting) == 0 && waiting > 0) {
            typed_ahead_ = static_cast<std::size_t>(waiting);
        }
        input_->set_filter([this](std::vector<std::byte>& bytes) {
            mend_typed_ahead(bytes);
            const EscapeFilter::Action action = escape_.apply(bytes);
            if (action == EscapeFilter::Action::help) list_keys();
            if (action == EscapeFilter::Action::leave && events_.leave) events_.leave();
        });
    }
    // The keys must work while the guest does not listen.
    input_->attach(input_fd_, terminal_ ? InputPump::WhenFull::lose : InputPump::WhenFull::wait);
}

// Linux keeps a Ctrl-D that was typed in line mode as a zero byte (n_tty's
// __DISABLED_CHAR), and that is what a raw reader gets.
void StdioBackend::mend_typed_ahead(std::span<std::byte> bytes)
{
    const auto ahead = bytes.first(std::min(bytes.size(), typed_ahead_));
    std::replace(ahead.begin(), ahead.end(), std::byte{0}, std::byte{0x04});
    typed_ahead_ -= ahead.size();
}

void StdioBackend::list_keys()
{
    const auto text = std::as_bytes(std::span{key_help});
    if (::isatty(output_fd_) == 1) {
        output_->write(text);
        return;
    }
    // Output goes elsewhere; the terminal that was typed on is usually writable, too.
    pollfd ready{input_fd_, POLLOUT, 0};
    if (::poll(&ready, 1, 0) != 1) return;
    [[maybe_unused]] const auto written = ::write(input_fd_, text.data(), text.size());
}

std::size_t StdioBackend::write(std::span<const std::byte> bytes) noexcept
{
    return output_->write(bytes);
}

std::size_t StdioBackend::input_available() const noexcept
{
    return input_->available();
}

void StdioBackend::set_input_callback(std::function<void()> callback)
{
    input_->set_input_callback(std::move(callback));
}

void StdioBackend::set_writable_callback(std::function<void()> callback)
{
    output_->set_writable_callback(std::move(callback));
}

}  // namespace doppel::backends
