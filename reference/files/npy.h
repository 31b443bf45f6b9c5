// NumPy's .npy files. Format: numpy.lib.format, versions 1.0 to 3.0.
//
// NumPy has no bf16 and no fp8: they lie in uint16 and uint8, and the logical dtype comes from the caller.
#pragma once

#include <filesystem>
#include <optional>
#include <span>

#include "reference/dtype.h"

namespace dsa {

// `logical`: what the contract says the tensor is. bfloat16 is read from uint16, float8_e4m3 from uint8, int32
// also from int64 where every number fits; a float32 or float64 array is taken as it is in place of any
// floating dtype. Without it, the file's own dtype is taken. Everything else is refused with what to save instead.
StoredTensor parse_npy(std::span<const std::byte> bytes, const std::string& source,
                       std::optional<DType> logical = std::nullopt);
StoredTensor read_npy(const std::filesystem::path& path, std::optional<DType> logical = std::nullopt);

// The bytes that numpy.save writes; whole or not at all.
void write_npy(const std::filesystem::path& path, const StoredTensor& tensor);

}  // namespace dsa
