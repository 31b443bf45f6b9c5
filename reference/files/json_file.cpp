#include "reference/files/json_file.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "reference/files/whole_file.h"

namespace dsa {
namespace {

using nlohmann::json;

constexpr int deepest = 64;  // our own files have about 8 levels; a parser's stack has thousands
constexpr std::uintmax_t largest_json = std::uintmax_t{64} << 20;
constexpr std::size_t longest_quote = 100;

// "line 3, column 7 (byte 41)"; `byte` counts from 1.
std::string place(std::string_view text, std::size_t byte) {
    const std::string_view before = text.substr(0, std::min(text.size(), byte == 0 ? 0 : byte - 1));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t newline = before.rfind('\n');
    const std::size_t column = before.size() + 1 - (newline == std::string_view::npos ? 0 : newline + 1);
    return "line " + std::to_string(line) + ", column " + std::to_string(column) + " (byte " + std::to_string(byte) +
           ")";
}

// The library's "[json.exception.x.101] parse error at ...: what is wrong", without what is before it.
std::string_view reason(const json::exception& error) {
    std::string_view what = error.what();
    for (const std::string_view before : {"] ", "parse error at ", ": "}) {
        const std::size_t at = what.find(before);
        if (at == std::string_view::npos) break;
        what.remove_prefix(at + before.size());
    }
    return what;
}

// NaN and infinity, which the library would write as null.
void refuse_non_finite(const json& value, const std::string& where) {
    if (value.is_number_float())
        require(std::isfinite(value.get<double>()), "JSON has no word for the number ", value.get<double>(), " at ",
                where, ": write a string instead");
    if (value.is_structured())
        for (const auto& [key, inner] : value.items()) refuse_non_finite(inner, where + "/" + key);
}

}  // namespace

std::string quotable(std::string_view text) {
    std::string shown(text.substr(0, longest_quote));
    for (char& c : shown)
        if (c < ' ' || c > '~') c = '?';
    return text.size() > longest_quote ? shown + "..." : shown;
}

json parse_json(std::string_view text, const std::string& source) {
    using Event = json::parse_event_t;
    std::vector<std::set<std::string>> keys;  // of each object that is open
    const auto watch = [&](int depth, Event event, json& parsed) {
        if (event == Event::object_start || event == Event::array_start)
            require(depth < deepest, source, " must nest at most ", deepest,
                    " levels deep; it nests deeper: flatten it");
        if (event == Event::object_start) keys.emplace_back();
        if (event == Event::object_end) keys.pop_back();
        if (event == Event::key)
            require(keys.back().insert(parsed.get<std::string>()).second, source,
                    " must have each key once in an object; it has \"", quotable(parsed.get<std::string>()),
                    "\" twice: remove one");
        return true;
    };
    try {
        return json::parse(text.begin(), text.end(), watch);
    } catch (const json::parse_error& error) {
        refuse(source, " must be well-formed JSON; at ", place(text, error.byte),
               " it is not: ", quotable(reason(error)));
    } catch (const json::exception& error) {
        refuse(source, " must be JSON whose numbers fit float64: ", quotable(reason(error)));
    }
}

json read_json(const std::filesystem::path& path) {
    const std::vector<std::byte> bytes = read_whole_file(path, largest_json);
    return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

void write_json(const std::filesystem::path& path, const json& value) {
    refuse_non_finite(value, path.string());
    std::string text;
    try {
        text = value.dump(2) + "\n";
    } catch (const json::exception& error) {
        refuse(path.string(), " cannot be written: its text must be UTF-8: ", quotable(reason(error)));
    }
    write_whole_file(path, [&text](std::ostream& out) { out << text; });
}

}  // namespace dsa
