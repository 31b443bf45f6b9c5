// Any bytes as JSON: a Refusal, or a value that is the same after being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "reference/files/json_file.h"
#include "reference/refusal.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    nlohmann::json parsed;
    try {
        parsed = dsa::parse_json({reinterpret_cast<const char*>(data), size}, "input.json");
    } catch (const dsa::Refusal&) {
        return 0;  // a sentence for whoever made the file; anything else thrown ends the run
    }
    if (dsa::parse_json(parsed.dump(2), "what was written") != parsed) std::abort();
    return 0;
}
