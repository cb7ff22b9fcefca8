// The commands below `doppel image`, one file each.
#pragma once

#include "cli/command.h"

namespace doppel::cli {

int image_create(const Arguments& arguments);
int image_info(const Arguments& arguments);
int image_check(const Arguments& arguments);
int image_convert(const Arguments& arguments);
int image_resize(const Arguments& arguments);
int image_debian(const Arguments& arguments);

extern const std::string_view image_help;
extern const std::string_view image_create_help;
extern const std::string_view image_info_help;
extern const std::string_view image_check_help;
extern const std::string_view image_convert_help;
extern const std::string_view image_resize_help;
extern const std::string_view image_debian_help;

}  // namespace doppel::cli
