// Any bytes as a .safetensors file: a Refusal, or tensors that lie inside it, one after another.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "reference/files/safetensors.h"
#include "reference/refusal.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        std::size_t covered = 0;
        for (const auto& [name, info] : dsa::parse_safetensors(std::as_bytes(std::span(data, size)), "input")) {
            if (info.begin > info.end || info.end > size) std::abort();
            if (info.end - info.begin !=
                static_cast<std::size_t>(dsa::element_count(info.shape)) * size_of(info.dtype))
                std::abort();
            covered += info.end - info.begin;
        }
        // No shared bytes: all of them fit into what the header leaves of the file.
        if (covered + 8 > size) std::abort();
    } catch (const dsa::Refusal&) {
        // A sentence for whoever made the file. Anything else thrown ends the run.
    }
    return 0;
}
