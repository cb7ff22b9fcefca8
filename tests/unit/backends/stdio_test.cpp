#include "backends/character/stdio.h"

#include <termios.h>

#include "console_fixture.h"

namespace doppel::backends {
namespace {

class Stdio : public testing::Test {
protected:
    void make(int input, int output)
    {
        ConsoleEvents events;
        events.leave = [this] { ++left_; };
        events.failed = [this](const base::Error& error) {
            failure_ = error.text();
            ++failed_;
        };
        auto backend = StdioBackend::create(loop_.loop(), events, input, output);
        ASSERT_TRUE(backend) << backend.error().text();
        backend_ = std::move(*backend);
        backend_->set_input_callback([this] { ++input_calls_; });
        backend_->set_writable_callback([this] { ++writable_calls_; });
    }

    static termios settings(int fd)
    {
        termios mode{};
        EXPECT_EQ(::tcgetattr(fd, &mode), 0);
        return mode;
    }
    static bool is_raw(int fd)
    {
        const termios mode = settings(fd);
        return (mode.c_lflag & (ICANON | ECHO | ISIG)) == 0 && (mode.c_oflag & OPOST) == 0;
    }

    // The backend wants them open for longer than itself.
    Pipe in;
    Pipe out;
    Pty pty;
    LoopThread loop_;
    std::atomic<int> left_ = 0;
    std::atomic<int> failed_ = 0;
    std::atomic<int> input_calls_ = 0;
    std::atomic<int> writable_calls_ = 0;
    std::string failure_;
    std::unique_ptr<StdioBackend> backend_;

    // Stops the loop first: the backend asks for that.
    void TearDown() override
    {
        loop_.stop();
        backend_.reset();
    }
};

TEST_F(Stdio, PipesBothWays)
{
    make(in.reader.get(), out.writer.get());
    loop_.start();
    EXPECT_EQ(backend_->write(as_bytes("hello")), 5u);
    EXPECT_EQ(receive_text(out.reader.get(), 5), "hello");
    send_text(in.writer.get(), "to the guest");
    EXPECT_EQ(take_input(*backend_, 12), "to the guest");
    EXPECT_GE(input_calls_, 1);
}

TEST_F(Stdio, AControlAFromAPipeIsJustAByte)
{
    make(in.reader.get(), out.writer.get());
    loop_.start();
    send_text(in.writer.get(), "\x01x");
    EXPECT_EQ(take_input(*backend_, 2), "\x01x");
    EXPECT_EQ(left_, 0);
}

TEST_F(Stdio, EndOfInputIsOneByteAfterAllOfIt)
{
    make(in.reader.get(), out.writer.get());
    loop_.start();
    // More than the queue holds.
    const std::string text(20000, 'a');
    send_text(in.writer.get(), text);
    in.writer.reset();
    EXPECT_EQ(take_input(*backend_, text.size() + 1), text + '\x04');
    std::this_thread::sleep_for(std::chrono::milliseconds{20});
    EXPECT_EQ(backend_->input_available(), 0u);
}

TEST_F(Stdio, InputFromAFile)
{
    const Folder folder;
    const std::string text(20000, 'f');
    std::ofstream{folder.file("input")} << text;
    const base::Fd input{::open(folder.file("input").c_str(), O_RDONLY | O_CLOEXEC)};
    make(input.get(), out.writer.get());
    loop_.start();
    EXPECT_EQ(take_input(*backend_, text.size() + 1), text + '\x04');
}

TEST_F(Stdio, InputsWithNothingInThem)
{
    for (const char* path : {"/dev/null", "/"}) {  // epoll refuses both; a folder gives EISDIR
        const base::Fd input{::open(path, O_RDONLY | O_CLOEXEC)};
        LoopThread loop;
        auto backend = StdioBackend::create(loop.loop(), {}, input.get(), 2);
        ASSERT_TRUE(backend);
        loop.start();
        EXPECT_EQ(take_input(**backend, 1), "\x04") << path;
        loop.stop();
    }
}

TEST_F(Stdio, ClosedInputIsAtItsEnd)
{
    const int closed = ::dup(out.reader.get());
    ::close(closed);
    make(closed, out.writer.get());
    loop_.start();
    EXPECT_EQ(take_input(*backend_, 1), "\x04");
}

TEST_F(Stdio, ClosedOutputIsAnError)
{
    const int closed = ::dup(0);
    ::close(closed);
    const auto backend = StdioBackend::create(loop_.loop(), {}, 0, closed);
    ASSERT_FALSE(backend);
    EXPECT_NE(backend.error().text().find("--console"), std::string::npos);
    EXPECT_NE(backend.error().text().find("standard output"), std::string::npos);
}

TEST_F(Stdio, AReaderThatIsGoneIsReportedOnce)
{
    make(in.reader.get(), out.writer.get());
    out.reader.reset();
    loop_.start();
    EXPECT_EQ(backend_->write(as_bytes("lost")), 4u);
    ASSERT_TRUE(eventually([this] { return failed_ == 1; }));
    // Accepted and dropped, however much.
    const std::string much(200000, 'x');
    EXPECT_EQ(backend_->write(as_bytes(much)), much.size());
    backend_->flush();
    loop_.stop();
    EXPECT_EQ(failed_, 1);
    EXPECT_NE(failure_.find("--console stdio"), std::string::npos);
    EXPECT_NE(failure_.find("Broken pipe"), std::string::npos);
}

TEST_F(Stdio, AFullDiskIsReported)
{
    const base::Fd full{::open("/dev/full", O_WRONLY | O_CLOEXEC)};
    make(in.reader.get(), full.get());
    loop_.start();
    backend_->write(as_bytes("lost"));
    ASSERT_TRUE(eventually([this] { return failed_ == 1; }));
    loop_.stop();
    EXPECT_NE(failure_.find("No space"), std::string::npos);
}

TEST_F(Stdio, ASlowReaderHoldsTheWriterBackAndLosesNothing)
{
    make(in.reader.get(), out.writer.get());
    loop_.start();
    std::string sent;
    // Fills pipe and queue.
    static_cast<void>(eventually([&] {
        const std::string piece(1000, static_cast<char>('a' + sent.size() % 26));
        const std::size_t taken = backend_->write(as_bytes(piece));
        sent.append(piece, 0, taken);
        return sent.size() > 100000 && taken == 0;
    }));
    EXPECT_EQ(backend_->output_room(), 0u);
    EXPECT_EQ(writable_calls_, 0);
    EXPECT_EQ(receive_text(out.reader.get(), sent.size()), sent);
    EXPECT_TRUE(eventually([this] { return writable_calls_ > 0; }));
    // Nobody but us may have been told not to block.
    EXPECT_EQ(::fcntl(out.writer.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(Stdio, FlushWorksWithoutTheLoop)
{
    make(in.reader.get(), out.writer.get());
    const std::string text(30000, 'z');
    EXPECT_EQ(backend_->write(as_bytes(text)), text.size());
    backend_->flush();
    EXPECT_EQ(receive_text(out.reader.get(), text.size()), text);
}

TEST_F(Stdio, FlushGivesUp)
{
    make(in.reader.get(), out.writer.get());
    const std::string text(60000, 'z');
    backend_->write(as_bytes(text));
    backend_->flush();
    backend_->write(as_bytes(text));
    const auto before = std::chrono::steady_clock::now();
    backend_->flush();  // nobody reads
    EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds{8});
    out.reader.reset();  // so that the end does not wait again
}

TEST_F(Stdio, TerminalIsRawWhileTheLoopRunsAndThenAsBefore)
{
    const termios before = settings(pty.slave.get());
    make(pty.slave.get(), pty.slave.get());
    EXPECT_FALSE(is_raw(pty.slave.get()));
    loop_.start();
    ASSERT_TRUE(eventually([&] { return is_raw(pty.slave.get()); }));
    send_text(pty.master.get(), "a\x03\r");
    EXPECT_EQ(take_input(*backend_, 3), "a\x03\r");
    backend_->write(as_bytes("x\ny"));
    EXPECT_EQ(receive_text(pty.master.get(), 3), "x\ny");
    EXPECT_EQ(::fcntl(pty.slave.get(), F_GETFL) & O_NONBLOCK, 0);
    loop_.stop();
    backend_.reset();
    const termios after = settings(pty.slave.get());
    EXPECT_EQ(after.c_lflag, before.c_lflag);
    EXPECT_EQ(after.c_iflag, before.c_iflag);
    EXPECT_EQ(after.c_oflag, before.c_oflag);
    EXPECT_EQ(after.c_cflag, before.c_cflag);
}

TEST_F(Stdio, Keys)
{
    make(pty.slave.get(), pty.slave.get());
    loop_.start();
    ASSERT_TRUE(eventually([&] { return is_raw(pty.slave.get()); }));
    send_text(pty.master.get(), "a\x01\x01"  "b\x01" "ec\x01");
    EXPECT_EQ(take_input(*backend_, 6), "a\x01" "b\x01" "ec");
    send_text(pty.master.get(), "h");  // the escape came in an earlier piece
    const std::string help = receive_text(pty.master.get(), 60);
    EXPECT_NE(help.find("Ctrl-A x"), std::string::npos);
    EXPECT_EQ(left_, 0);
    send_text(pty.master.get(), "\x01x");
    EXPECT_TRUE(eventually([this] { return left_ == 1; }));
}

TEST_F(Stdio, WhatWasTypedBeforeIsNotLost)
{
    make(pty.slave.get(), pty.slave.get());
    send_text(pty.master.get(), "hello\x04");
    std::this_thread::sleep_for(std::chrono::milliseconds{20});
    loop_.start();
    EXPECT_EQ(take_input(*backend_, 6), "hello\x04");
    send_text(pty.master.get(), std::string_view{"\0", 1});
    EXPECT_EQ(take_input(*backend_, 1), (std::string{"\0", 1}));
}

TEST_F(Stdio, KeysWorkWhileTheGuestDoesNotListen)
{
    make(pty.slave.get(), pty.slave.get());
    loop_.start();
    ASSERT_TRUE(eventually([&] { return is_raw(pty.slave.get()); }));
    send_text(pty.master.get(), std::string(20000, 'k') + "\x01x");
    EXPECT_TRUE(eventually([this] { return left_ == 1; }));
}

TEST_F(Stdio, KeysAreListedOnTheTerminalWhenOutputGoesElsewhere)
{
    make(pty.slave.get(), out.writer.get());
    loop_.start();
    ASSERT_TRUE(eventually([&] { return is_raw(pty.slave.get()); }));
    send_text(pty.master.get(), "\x01h");
    EXPECT_NE(receive_text(pty.master.get(), 60).find("Ctrl-A x"), std::string::npos);
    backend_->write(as_bytes("only this"));
    EXPECT_EQ(receive_text(out.reader.get(), 9), "only this");
}

TEST_F(Stdio, ATerminalThatHangsUpIsTheEnd)
{
    make(pty.slave.get(), out.writer.get());
    loop_.start();
    ASSERT_TRUE(eventually([&] { return is_raw(pty.slave.get()); }));
    pty.master.reset();
    EXPECT_EQ(take_input(*backend_, 1), "\x04");
}

}  // namespace
}  // namespace doppel::backends
