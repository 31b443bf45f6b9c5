// JSON files, read with distrust.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace dsa {

// Refuses malformed text with its place, duplicate keys, nesting beyond 64 and files beyond 64 MiB.
nlohmann::json parse_json(std::string_view text, const std::string& source);
nlohmann::json read_json(const std::filesystem::path& path);

// Two spaces of indentation, keys in order, a newline at the end; whole or not at all.
void write_json(const std::filesystem::path& path, const nlohmann::json& json);

}  // namespace dsa
