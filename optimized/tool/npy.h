// .npy files of packed little-endian arrays: NumPy's format 1 to 3 (numpy/lib/format.py describes it).
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace dsa {

struct NpyArray {
    std::string descr;  // "<f4", "<u2", "|u1", ...
    std::vector<std::int64_t> shape;
    std::vector<std::byte> bytes;
};

// Refuses (std::runtime_error, one sentence) what is no such file, is cut off, or is in Fortran order.
NpyArray read_npy(const std::filesystem::path& path);
// Written beside and renamed: a file is there whole or not at all.
void write_npy(const std::filesystem::path& path, const NpyArray& array);

}  // namespace dsa
