// The factory, and the backends that are not standard input and output.
#include "backends/character/character_backend.h"

#include <sys/stat.h>
#include <sys/un.h>

#include "console_fixture.h"

namespace doppel::backends {
namespace {

std::string refusal(base::EventLoop& loop, std::string_view spec)
{
    const auto backend = create_character_backend(spec, loop, {});
    return backend ? std::string{} : backend.error().text();
}

base::Fd connect_to(const std::string& path)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    base::Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    EXPECT_TRUE(eventually([&] { return ::connect(fd.get(), generic, sizeof address) == 0; }));
    return fd;
}

TEST(CharacterBackend, BadSpecsNameTheOptionAndWhatWasFound)
{
    LoopThread loop;
    const Folder folder;
    std::ofstream{folder.file("plain")} << "precious";
    const std::string long_path(300, 'x');
    for (const std::string& spec : std::initializer_list<std::string>{
             "moon", "", "file", "file:", "socket:", "file:/nowhere/at/all",
             "socket:/nowhere/at/all", "file:" + folder.file(""), "socket:" + folder.file("plain"),
             "socket:" + long_path, std::string{"file:a\0b", 8}}) {
        const std::string text = refusal(loop.loop(), spec);
        EXPECT_NE(text.find("--console"), std::string::npos) << spec << ": " << text;
        EXPECT_LT(text.size(), 300u) << text;
        if (spec.size() < 100 && !spec.ends_with(":") && spec.find('\0') == std::string::npos) {
            EXPECT_NE(text.find(spec), std::string::npos) << text;
        }
    }
    EXPECT_EQ(content_of(folder.file("plain")), "precious");
}

TEST(CharacterBackend, NoneTakesEverythingAndGivesNothing)
{
    LoopThread loop;
    const auto backend = create_character_backend("none", loop.loop(), {});
    ASSERT_TRUE(backend);
    EXPECT_EQ((*backend)->write(as_bytes("gone")), 4u);
    EXPECT_GE((*backend)->output_room(), 16u);
    std::byte byte{};
    EXPECT_EQ((*backend)->read({&byte, 1}), 0u);
}

TEST(CharacterBackend, FileIsTruncatedAndHoldsAllOutput)
{
    LoopThread loop;
    const Folder folder;
    const std::string path = folder.file("log");
    std::ofstream{path} << std::string(1000, 'o');
    auto backend = create_character_backend("file:" + path, loop.loop(), {});
    ASSERT_TRUE(backend) << backend.error().text();
    loop.start();
    std::string sent;
    while (sent.size() < 200000) {
        const std::string piece = std::to_string(sent.size()) + "\n";
        sent.append(piece, 0, (*backend)->write(as_bytes(piece)));
    }
    loop.stop();
    (*backend).reset();
    EXPECT_EQ(content_of(path), sent);
}

TEST(CharacterBackend, ANamedPipeThatNobodyReadsIsRefused)
{
    LoopThread loop;
    const Folder folder;
    ASSERT_EQ(::mkfifo(folder.file("fifo").c_str(), 0600), 0);
    EXPECT_NE(refusal(loop.loop(), "file:" + folder.file("fifo")), "");
}

TEST(CharacterBackend, AFullFileIsReportedOnce)
{
    LoopThread loop;
    std::atomic<int> failed = 0;
    ConsoleEvents events;
    events.failed = [&failed](const base::Error&) { ++failed; };
    auto backend = create_character_backend("file:/dev/full", loop.loop(), events);
    ASSERT_TRUE(backend);
    loop.start();
    (*backend)->write(as_bytes("a"));
    EXPECT_TRUE(eventually([&] { return failed == 1; }));
    EXPECT_EQ((*backend)->write(as_bytes("b")), 1u);
    loop.stop();
    EXPECT_EQ(failed, 1);
}

class Socket : public testing::Test {
protected:
    void make()
    {
        auto backend = create_character_backend("socket:" + path_, loop_.loop(), {});
        ASSERT_TRUE(backend) << backend.error().text();
        backend_ = std::move(*backend);
        backend_->set_writable_callback([this] { ++writable_calls_; });
        loop_.start();
    }
    // A client is served once something sent comes back out.
    base::Fd client()
    {
        base::Fd fd = connect_to(path_);
        send_text(fd.get(), "!");
        EXPECT_EQ(take_input(*backend_, 1), "!");
        return fd;
    }
    void TearDown() override
    {
        loop_.stop();
        backend_.reset();
    }

    Folder folder_;
    const std::string path_ = folder_.file("console");
    LoopThread loop_;
    std::atomic<int> writable_calls_ = 0;
    std::unique_ptr<CharacterBackend> backend_;
};

TEST_F(Socket, BothWays)
{
    make();
    const base::Fd fd = client();
    backend_->write(as_bytes("hello"));
    EXPECT_EQ(receive_text(fd.get(), 5), "hello");
    const std::string text(50000, 'i');
    std::thread sender{[&] { send_text(fd.get(), text); }};
    EXPECT_EQ(take_input(*backend_, text.size()), text);
    sender.join();
}

TEST_F(Socket, WithoutAClientOutputVanishes)
{
    make();
    const std::string much(200000, 'x');
    EXPECT_EQ(backend_->write(as_bytes(much)), much.size());
    const base::Fd fd = client();
    backend_->write(as_bytes("now"));
    EXPECT_EQ(receive_text(fd.get(), 3), "now");
}

TEST_F(Socket, OneClientAtATimeAndTheNextAfterIt)
{
    make();
    base::Fd first = client();
    const base::Fd second = connect_to(path_);
    EXPECT_EQ(receive_text(second.get(), 1), "");  // closed at once
    send_text(first.get(), "still here");
    EXPECT_EQ(take_input(*backend_, 10), "still here");
    first.reset();
    std::this_thread::sleep_for(std::chrono::milliseconds{20});
    const base::Fd third = client();
    backend_->write(as_bytes("third"));
    EXPECT_EQ(receive_text(third.get(), 5), "third");
}

TEST_F(Socket, AClientThatOnlyStoppedSendingStillGetsOutput)
{
    make();
    base::Fd fd = client();
    send_text(fd.get(), "bye");
    ::shutdown(fd.get(), SHUT_WR);
    EXPECT_EQ(take_input(*backend_, 3), "bye");
    std::this_thread::sleep_for(std::chrono::milliseconds{20});
    backend_->write(as_bytes("answer"));
    EXPECT_EQ(receive_text(fd.get(), 6), "answer");
    fd.reset();
    const base::Fd next = client();
    backend_->write(as_bytes("next"));
    EXPECT_EQ(receive_text(next.get(), 4), "next");
}

TEST_F(Socket, AClientThatLeavesWithAFullQueueWakesTheDevice)
{
    make();
    base::Fd fd = client();
    ASSERT_TRUE(eventually([this] {
        return backend_->write(as_bytes(std::string(1000, 'f'))) == 0;
    }));
    EXPECT_EQ(writable_calls_, 0);
    fd.reset();
    EXPECT_TRUE(eventually([this] { return writable_calls_ > 0; }));
    EXPECT_GE(backend_->output_room(), 16u);
}

TEST_F(Socket, TheFileGoesAtTheEndAndAStaleOneIsReplaced)
{
    make();
    EXPECT_NE(refusal(loop_.loop(), "socket:" + path_).find("listens"), std::string::npos);
    loop_.stop();
    backend_.reset();
    EXPECT_FALSE(std::filesystem::exists(path_));

    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    base::Fd stale{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    ASSERT_EQ(::bind(stale.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    stale.reset();
    make();
    const base::Fd fd = client();
}

TEST_F(Socket, AFileThatSomebodyPutThereInsteadStays)
{
    make();
    std::filesystem::remove(path_);
    std::ofstream{path_} << "other";
    loop_.stop();
    backend_.reset();
    EXPECT_EQ(content_of(path_), "other");
}

}  // namespace
}  // namespace doppel::backends
