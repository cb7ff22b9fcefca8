// `doppel image debian`: packages into a disk that boots.
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "backends/block/copy_image.h"
#include "backends/block/open_image.h"
#include "base/fd.h"
#include "cli/image_commands.h"
#include "cli/new_image.h"

extern "C" {
extern const char doppel_debian_script[];
extern const char doppel_debian_script_end[];
}

namespace doppel::cli {

namespace {

namespace files = std::filesystem;

constexpr std::array options{
    ImageOption{"--size", "", true},     ImageOption{"--packages", "", true},
    ImageOption{"--ssh-key", "", true},  ImageOption{"--suite", "", true},
    ImageOption{"--mirror", "", true},   ImageOption{"--hostname", "", true},
    ImageOption{"--format", "-f", true}, ImageOption{"--force", "", false},
};

// Made beside the image, where there is room for it, and gone afterwards.
class WorkFolder {
public:
    static base::Result<WorkFolder> create(const files::path& image)
    {
        std::string name = (image.parent_path() / (image.filename().string() + ".XXXXXX")).string();
        if (::mkdtemp(name.data()) == nullptr) {
            return base::errno_error(base::ErrorKind::io, "Cannot make a folder beside '" +
                                                              image.string() + "'", errno);
        }
        return WorkFolder{name};
    }
    WorkFolder(WorkFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
    WorkFolder& operator=(WorkFolder&&) = delete;
    ~WorkFolder()
    {
        std::error_code ignored;
        if (!path_.empty()) files::remove_all(path_, ignored);
    }
    [[nodiscard]] const files::path& path() const { return path_; }

private:
    explicit WorkFolder(std::string path) : path_(std::move(path)) {}
    files::path path_;
};

struct Request {
    files::path image, kernel, initrd;
    NewImage disk;
    std::string suite, mirror, name, packages, ssh_key;
};

// Words that go to a shell's command line and into files.
base::Result<std::string> word(const ImageArguments& arguments, std::string_view option,
                               std::string_view otherwise, std::string_view also)
{
    if (!arguments.has(option)) return std::string{otherwise};
    std::string value = arguments.value(option);
    const bool good = !value.empty() && value.front() != '-' &&
                      std::all_of(value.begin(), value.end(), [&](unsigned char c) {
                          return std::isalnum(c) != 0 || also.find(static_cast<char>(c)) != also.npos;
                      });
    if (good) return value;
    return base::usage_error(fmt::format("{} {}: expected letters, digits and {}", option, value, also));
}

base::Result<void> check_host()
{
    if (::geteuid() != 0) {
        return base::usage_error("image debian: needs root, to give files their owners; run it with sudo");
    }
    for (const auto& [program, package] : {std::pair{"debootstrap", "debootstrap"},
                                           std::pair{"mkfs.ext4", "e2fsprogs"}}) {
        const std::string command = fmt::format("PATH=$PATH:/usr/sbin:/sbin command -v {} >/dev/null", program);
        if (std::system(command.c_str()) != 0) {
            return base::host_error(fmt::format("image debian: {} is missing; apt-get install {}", program, package));
        }
    }
    return {};
}

base::Result<Request> describe(const ImageArguments& arguments)
{
    if (arguments.files.size() != 1) {
        return base::usage_error("image debian: expected one FILE; see 'doppel image debian --help'");
    }
    Request request;
    request.image = arguments.files[0];
    request.kernel = request.image;
    request.kernel.replace_extension(".vmlinuz");
    request.initrd = request.image;
    request.initrd.replace_extension(".initrd");
    if (request.image == request.kernel || request.image == request.initrd) {
        return base::usage_error("image debian: the kernel goes to a file of that name; use another, "
                                 "such as debian.qcow2");
    }
    std::uint64_t no_backing = 0;
    request.disk = TRY(describe_new_image(arguments, request.image.string(), "--format", no_backing));
    request.disk.size = TRY(parse_disk_size(arguments.has("--size") ? arguments.value("--size") : "8G"));
    request.suite = TRY(word(arguments, "--suite", "bookworm", "-"));
    request.mirror = TRY(word(arguments, "--mirror", "", ":/.-_~%+"));
    request.name = TRY(word(arguments, "--hostname", "debian", "-"));
    request.packages = TRY(word(arguments, "--packages", "", ",.+-:"));
    request.ssh_key = arguments.value("--ssh-key");
    if (!request.ssh_key.empty() && ::access(request.ssh_key.c_str(), R_OK) != 0) {
        return base::errno_error(base::ErrorKind::usage, "--ssh-key '" + request.ssh_key + "'", errno);
    }
    if (!arguments.has("--force")) {
        for (const files::path& path : {request.image, request.kernel, request.initrd}) {
            if (files::exists(path)) {
                return base::usage_error("'" + path.string() + "' is there already; use another name, "
                                         "or --force to replace it");
            }
        }
    }
    return request;
}

base::Result<void> run_script(const Request& request, const files::path& work, const files::path& raw)
{
    const base::Fd script{::memfd_create("debian_image.sh", 0)};
    const auto size = static_cast<std::size_t>(doppel_debian_script_end - doppel_debian_script);
    if (!script.valid() || ::write(script.get(), doppel_debian_script, size) != static_cast<ssize_t>(size)) {
        return base::errno_error(base::ErrorKind::host, "Cannot prepare the script", errno);
    }
    const char* path = std::getenv("PATH");
    const std::vector<std::string> variables = {
        fmt::format("PATH={}:/usr/sbin:/sbin", path != nullptr ? path : "/usr/bin:/bin"),
        "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
        "WORK=" + work.string(), "RAW=" + raw.string(), fmt::format("SIZE={}", request.disk.size),
        "KERNEL=" + request.kernel.string(), "INITRD=" + request.initrd.string(),
        "SUITE=" + request.suite, "MIRROR=" + request.mirror, "NAME=" + request.name,
        "PACKAGES=" + request.packages, "SSH_KEY=" + request.ssh_key,
    };
    std::vector<char*> environment;
    for (const std::string& variable : variables) environment.push_back(const_cast<char*>(variable.c_str()));
    environment.push_back(nullptr);
    std::string shell = "/bin/sh", file = fmt::format("/dev/fd/{}", script.get());
    std::array<char*, 3> arguments{shell.data(), file.data(), nullptr};
    pid_t child = 0;
    if (const int error = ::posix_spawn(&child, shell.c_str(), nullptr, nullptr, arguments.data(),
                                        environment.data()); error != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot start /bin/sh", error);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    std::string reason;
    if (FILE* text = std::fopen((work / "reason").c_str(), "re")) {
        std::array<char, 512> line{};
        if (std::fgets(line.data(), static_cast<int>(line.size()), text) != nullptr) reason = line.data();
        std::fclose(text);
    }
    while (!reason.empty() && reason.back() == '\n') reason.pop_back();
    return base::io_error("image debian: " + (reason.empty() ? "interrupted" : reason));
}

base::Result<void> store(const Request& request, const files::path& raw)
{
    backends::BlockOptions source, destination;
    source.path = raw.string();
    source.format = backends::ImageFormat::raw;
    source.read_only = true;
    destination.path = request.image.string();
    destination.format = request.disk.format;
    const auto from = TRY(backends::open_image(source));
    TRY(make_image(request.disk));
    const auto to = TRY(backends::open_image(destination));
    const auto result = backends::copy_image(*from.image, *to.image, {});
    if (result.error == 0) return {};
    return base::errno_error(base::ErrorKind::io, "Cannot write '" + request.image.string() + "'", result.error);
}

base::Result<std::string> make(const ImageArguments& arguments)
{
    const Request request = TRY(describe(arguments));
    TRY(check_host());
    const WorkFolder work = TRY(WorkFolder::create(files::absolute(request.image)));
    const files::path raw = work.path() / "disk";
    TRY(run_script(request, work.path(), raw));
    TRY(store(request, raw));
    return fmt::format(
        "{}: Debian {}, {}. Start it with\n"
        "  doppel run --memory 1G --kernel {} --initrd {} --disk {} \\\n"
        "      --net user,hostfwd=tcp:127.0.0.1:2222-:22 \\\n"
        "      --cmdline 'console=ttyS0 root=LABEL=doppel-root'\n"
        "and log in as root, without a password{}.\n",
        request.image.string(), request.suite, size_text(request.disk.size), request.kernel.string(),
        request.initrd.string(), request.image.string(),
        request.ssh_key.empty() ? "" : ", or by ssh -p 2222 root@127.0.0.1");
}

}  // namespace

int image_debian(const Arguments& arguments)
{
    const auto parsed = parse_image("debian", arguments, options);
    if (!parsed) return fail(parsed.error());
    if (parsed->has("--help")) return print(image_debian_help);
    const auto text = make(*parsed);
    return text ? print(*text) : fail(text.error());
}

}  // namespace doppel::cli
