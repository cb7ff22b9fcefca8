#include "backends/character/character_backend.h"

#include "backends/character/file.h"
#include "backends/character/null.h"
#include "backends/character/socket.h"
#include "backends/character/stdio.h"

namespace doppel::backends {

base::Result<std::unique_ptr<CharacterBackend>> create_character_backend(std::string_view spec,
                                                                         base::EventLoop& loop,
                                                                         ConsoleEvents events)
{
    using Made = std::unique_ptr<CharacterBackend>;
    constexpr std::string_view file_prefix = "file:";
    constexpr std::string_view socket_prefix = "socket:";
    if (spec == "none") return Made{std::make_unique<NullBackend>()};
    if (spec == "stdio") return Made{TRY(StdioBackend::create(loop, std::move(events)))};
    for (const std::string_view prefix : {file_prefix, socket_prefix}) {
        if (!spec.starts_with(prefix)) continue;
        const std::string path{spec.substr(prefix.size())};
        if (path.empty() || path.find('\0') != std::string::npos) {
            return base::usage_error("--console " + std::string{prefix} +
                                     ": a path must follow the colon");
        }
        if (prefix == socket_prefix) return Made{TRY(SocketBackend::create(loop, path))};
        return Made{TRY(FileBackend::create(loop, path, FileBackend::Mode::truncate,
                                            std::move(events.failed)))};
    }
    return base::usage_error("--console " + std::string{spec.substr(0, 64)} +
                             ": unknown; use stdio, none, file:PATH or socket:PATH");
}

}  // namespace doppel::backends
