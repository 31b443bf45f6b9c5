// JSON files, read with distrust.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace dsa {

// Refuses malformed text with its place, a key given twice in one object, NaN and infinity, nesting deeper than
// 64 levels and files beyond 64 MiB.
nlohmann::json parse_json(std::string_view text, const std::string& source);
nlohmann::json read_json(const std::filesystem::path& path);

// Two spaces of indentation, keys in order, a newline at the end; whole or not at all. Refuses NaN and
// infinity, for which JSON has no words, and text that is not UTF-8.
void write_json(const std::filesystem::path& path, const nlohmann::json& json);

// Text from a file as it may stand in a sentence: printable ASCII, cut short.
std::string quotable(std::string_view text);

}  // namespace dsa
