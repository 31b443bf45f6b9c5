// Reading a file at once, and writing one so that it is there whole or not at all.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "reference/refusal.h"

namespace dsa {

inline std::vector<std::byte> read_whole_file(const std::filesystem::path& path, std::uintmax_t largest) {
    std::error_code error;
    require(std::filesystem::exists(path, error), "the file ", path.string(), " does not exist: check the path");
    require(std::filesystem::is_regular_file(path, error), path.string(), " must be a file; it is something else");
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    require(!error && size <= largest, "the file ", path.string(), " must be at most ", largest, " bytes; it has ",
            size);
    std::vector<std::byte> bytes(size);
    std::ifstream in(path, std::ios::binary);
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
    require(in.gcount() == static_cast<std::streamsize>(size), "the file ", path.string(),
            " could not be read: check its permissions");
    return bytes;
}

// `write(stream)` fills a file of another name beside it, which is then renamed; on failure nothing is left.
template <class Write>
void write_whole_file(const std::filesystem::path& path, Write&& write) {
    const std::filesystem::path unfinished = path.string() + ".unfinished." + std::to_string(::getpid());
    std::error_code error;
    try {
        std::ofstream out(unfinished, std::ios::binary | std::ios::trunc);
        require(out.good(), "cannot write ", path.string(), ": check that its folder exists and may be written to");
        write(out);
        out.flush();
        require(out.good(), "cannot finish writing ", path.string(), ": is the disk full?");
        out.close();
        std::filesystem::rename(unfinished, path, error);
        require(!error, "cannot give ", unfinished.string(), " its name ", path.string(), ": ", error.message());
    } catch (...) {
        std::filesystem::remove(unfinished, error);
        throw;
    }
}

}  // namespace dsa
