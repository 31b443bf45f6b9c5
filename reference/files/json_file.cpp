#include "reference/files/json_file.h"

#include <set>
#include <vector>

#include "reference/files/whole_file.h"

namespace dsa {
namespace {

constexpr int deepest = 64;
constexpr std::uintmax_t largest_json = std::uintmax_t{64} << 20;

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& source) {
    using Event = nlohmann::json::parse_event_t;
    std::vector<std::set<std::string>> keys;  // of each object that is open
    const auto watch = [&](int depth, Event event, nlohmann::json& parsed) {
        require(depth <= deepest, source, " nests deeper than ", deepest, " levels: no file of ours does");
        if (event == Event::object_start) keys.emplace_back();
        if (event == Event::object_end) keys.pop_back();
        if (event == Event::key)
            require(keys.back().insert(parsed.get<std::string>()).second, source, " has the key ", parsed.dump(),
                    " twice in one object");
        return true;
    };
    try {
        return nlohmann::json::parse(text.begin(), text.end(), watch);
    } catch (const nlohmann::json::exception& error) {
        refuse(source, " must be well-formed JSON: ", error.what());
    }
}

nlohmann::json read_json(const std::filesystem::path& path) {
    const std::vector<std::byte> bytes = read_whole_file(path, largest_json);
    return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
    write_whole_file(path, [&json](std::ostream& out) { out << json.dump(2) << '\n'; });
}

}  // namespace dsa
