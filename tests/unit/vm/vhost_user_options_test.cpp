// --share, --fs and disks of other processes.
#include "vm/vhost_user_options.h"

#include <gtest/gtest.h>

#include "vm/vm_config.h"

namespace doppel::vm {
namespace {

TEST(VhostUserOptions, WhatTheyMean)
{
    const auto share = parse_share("/a,,b,tag=t,readonly,cache=none,transport=mmio");
    ASSERT_TRUE(share.has_value()) << share.error().text();
    EXPECT_EQ(share->share.folder, "/a,b");
    EXPECT_EQ(share->tag, "t");
    EXPECT_TRUE(share->share.read_only);
    EXPECT_EQ(share->share.cache, "none");
    EXPECT_EQ(share->virtio.transport, VirtioOptions::Transport::mmio);
    EXPECT_TRUE(share->socket.empty());
    const auto fs = parse_fs("vhost-user:/s,tag=" + std::string(36, 'x'));
    ASSERT_TRUE(fs.has_value()) << fs.error().text();
    EXPECT_EQ(fs->socket, "/s");
    EXPECT_EQ(fs->tag.size(), 36u);
    const auto disk = parse_disk("vhost-user:/run/d,queues=16,legacy=off");
    ASSERT_TRUE(disk.has_value()) << disk.error().text();
    ASSERT_TRUE(disk->vhost_user.has_value());
    EXPECT_EQ(disk->vhost_user->socket, "/run/d");
    EXPECT_EQ(disk->vhost_user->queues, 16u);
    EXPECT_FALSE(disk->virtio.legacy);
    EXPECT_FALSE(parse_disk("/run/vhost-user:x")->vhost_user.has_value());
}

TEST(VhostUserOptions, ErrorsNameTheOptionAndTheFix)
{
    const auto says = [](const auto& result, const std::string& option, const std::string& fix) {
        ASSERT_FALSE(result.has_value()) << fix;
        const std::string text = result.error().text();
        EXPECT_EQ(text.find(option), 0u) << text;
        EXPECT_NE(text.find(fix), std::string::npos) << text;
    };
    says(parse_share(""), "--share", "No folder named");
    says(parse_share("/a"), "--share", "mount -t virtiofs");
    says(parse_share("/a,tag="), "--share", "1 to 36 bytes");
    says(parse_share("/a,tag=" + std::string(37, 'x')), "--share", "1 to 36 bytes");
    says(parse_share("/a,tag=x,tag=y"), "--share", "given twice");
    says(parse_share("/a,tag=x,cache=no"), "--share", "none, auto or always");
    says(parse_share("/a,tag=x,readonly=perhaps"), "--share", "readonly");
    says(parse_share("/a,tag=x,queues=2"), "--share", "the keys are tag");
    says(parse_fs("/s,tag=x"), "--fs", "vhost-user:SOCKET");
    says(parse_fs("vhost-user:,tag=x"), "--fs", "must follow the colon");
    says(parse_fs("vhost-user:/s,tag=x,readonly"), "--fs", "the key is tag");
    says(parse_disk("vhost-user:"), "--disk", "must follow the colon");
    says(parse_disk("vhost-user:/s,queues=0"), "--disk", "1 to 16");
    says(parse_disk("vhost-user:/s,queues=17"), "--disk", "1 to 16");
    says(parse_disk("vhost-user:/s,format=raw"), "--disk", "that process's");
}

}  // namespace
}  // namespace doppel::vm
