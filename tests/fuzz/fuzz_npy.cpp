// Any bytes as a .npy file, under every logical dtype: a Refusal, or a tensor whose bytes fit its shape.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "reference/files/npy.h"
#include "reference/refusal.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using dsa::DType;
    const auto bytes = std::as_bytes(std::span(data, size));
    for (const std::optional<DType> logical : {std::optional<DType>{},
                                               {DType::float64},
                                               {DType::float32},
                                               {DType::bfloat16},
                                               {DType::float8_e4m3},
                                               {DType::uint8},
                                               {DType::int32},
                                               {DType::int64},
                                               {DType::boolean}}) {
        try {
            const dsa::StoredTensor tensor = dsa::parse_npy(bytes, "input.npy", logical);
            if (tensor.bytes.size() != static_cast<std::size_t>(tensor.size()) * size_of(tensor.dtype)) std::abort();
            for (dsa::Index i = 0; i < tensor.size(); ++i) static_cast<void>(tensor.number(i));
        } catch (const dsa::Refusal&) {
            // A sentence for whoever made the file. Anything else thrown ends the run.
        }
    }
    return 0;
}
