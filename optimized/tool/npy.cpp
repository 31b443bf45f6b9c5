#include "optimized/tool/npy.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <regex>
#include <stdexcept>

namespace dsa {
namespace {

constexpr char magic[] = "\x93NUMPY";
constexpr std::size_t magic_bytes = 6;

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& why) {
    throw std::runtime_error(path.string() + " must be a .npy file of a packed little-endian array: " + why);
}

std::int64_t bytes_of(const std::string& descr, const std::filesystem::path& path) {
    static const std::regex known("[<|][biuf]([1248])");
    std::smatch match;
    if (!std::regex_match(descr, match, known)) fail(path, "its dtype is " + descr);
    return std::stoll(match[1]);
}

}  // namespace

NpyArray read_npy(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error(path.string() + " cannot be read: check the path");
    char head[8] = {};
    in.read(head, sizeof head);
    if (!in || std::memcmp(head, magic, magic_bytes) != 0) fail(path, "it does not begin with \\x93NUMPY");
    std::uint32_t header_bytes = 0;
    in.read(reinterpret_cast<char*>(&header_bytes), head[6] == 1 ? 2 : 4);
    if (!in || header_bytes > (1U << 20)) fail(path, "its header is cut off");
    std::string header(header_bytes, '\0');
    in.read(header.data(), header_bytes);
    if (!in) fail(path, "its header is cut off");
    std::smatch match;
    NpyArray array;
    if (!std::regex_search(header, match, std::regex("'descr': *'([^']*)'"))) fail(path, "its header has no dtype");
    array.descr = match[1];
    if (std::regex_search(header, std::regex("'fortran_order': *True"))) fail(path, "it is in Fortran order");
    if (!std::regex_search(header, match, std::regex("'shape': *\\(([^)]*)\\)")))
        fail(path, "its header has no shape");
    const std::string extents = match[1];
    std::int64_t count = bytes_of(array.descr, path);
    static const std::regex number("[0-9]+");
    for (auto it = std::sregex_iterator(extents.begin(), extents.end(), number); it != std::sregex_iterator(); ++it) {
        array.shape.push_back(std::stoll(it->str()));
        if (array.shape.back() > 0 && count > (std::int64_t{1} << 40) / array.shape.back())
            fail(path, "it is too large");
        count *= array.shape.back();
    }
    array.bytes.resize(static_cast<std::size_t>(count));
    in.read(reinterpret_cast<char*>(array.bytes.data()), count);
    if (in.gcount() != count)
        fail(path,
             "it must have " + std::to_string(count) + " bytes of numbers; it has " + std::to_string(in.gcount()));
    if (in.peek() != std::ifstream::traits_type::eof()) fail(path, "bytes follow the array");
    return array;
}

void write_npy(const std::filesystem::path& path, const NpyArray& array) {
    std::string shape;
    for (const std::int64_t extent : array.shape) shape += std::to_string(extent) + ", ";
    if (array.shape.size() > 1) shape.resize(shape.size() - 2);
    if (array.shape.size() == 1) shape.resize(shape.size() - 1);
    std::string header = "{'descr': '" + array.descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
    constexpr std::size_t before = magic_bytes + 4;
    constexpr std::size_t alignment = 64;  // of the numbers
    header.append(alignment - (before + header.size() + 1) % alignment, ' ');
    header += '\n';
    const std::filesystem::path unfinished = path.string() + ".unfinished";
    std::ofstream out(unfinished, std::ios::binary);
    const auto length = static_cast<std::uint16_t>(header.size());
    const char version[] = {1, 0};
    out.write(magic, magic_bytes);
    out.write(version, sizeof version);
    out.write(reinterpret_cast<const char*>(&length), sizeof length);
    out.write(header.data(), static_cast<std::streamsize>(header.size()));
    out.write(reinterpret_cast<const char*>(array.bytes.data()), static_cast<std::streamsize>(array.bytes.size()));
    out.close();
    if (!out) throw std::runtime_error(path.string() + " cannot be written: is the disk full?");
    std::filesystem::rename(unfinished, path);
}

}  // namespace dsa
