// The text of the last error of this thread, which engine_error(NULL) returns.
#pragma once
#include <string>

namespace engine::embed {

std::string& last_error();

inline int fail(int code, const std::string& text) {
    last_error() = text;
    return code;
}

}  // namespace engine::embed
