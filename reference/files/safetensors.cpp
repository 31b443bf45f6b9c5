#include "reference/files/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "reference/files/json_file.h"
#include "reference/files/whole_file.h"

namespace dsa {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::size_t size_bytes = 8;
constexpr std::uint64_t largest_header = 100'000'000;  // the limit of the format's own library
constexpr Index largest_extent = Index{1} << 50;

struct FileType {
    std::string_view name;
    DType dtype;
};
constexpr std::array<FileType, 8> file_types{{{"F64", DType::float64},
                                              {"F32", DType::float32},
                                              {"BF16", DType::bfloat16},
                                              {"F8_E4M3", DType::float8_e4m3},
                                              {"U8", DType::uint8},
                                              {"I32", DType::int32},
                                              {"I64", DType::int64},
                                              {"BOOL", DType::boolean}}};

std::uint64_t little_endian(std::span<const std::byte> bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size_bytes; ++i) value |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
    return value;
}

TensorInfo parse_entry(const std::string& name, const json& entry, const std::string& source) {
    const std::string who = source + ": tensor \"" + name + "\"";
    require(entry.is_object() && entry.contains("dtype") && entry.contains("shape") && entry.contains("data_offsets"),
            who, " must have dtype, shape and data_offsets");
    TensorInfo info;
    const FileType* type = nullptr;
    for (const FileType& known : file_types)
        if (entry["dtype"] == known.name) type = &known;
    require(type != nullptr, who, " must have dtype F64, F32, BF16, F8_E4M3, U8, I32, I64 or BOOL; it has ",
            entry["dtype"].dump());
    info.dtype = type->dtype;

    require(entry["shape"].is_array(), who, " must have a list as its shape");
    Index count = 1;
    for (const json& extent : entry["shape"]) {
        require(
            extent.is_number_unsigned() && extent.get<std::uint64_t>() <= static_cast<std::uint64_t>(largest_extent),
            who, " must have whole numbers as its shape; it has ", extent.dump());
        const auto n = extent.get<Index>();
        require(n == 0 || count <= largest_extent / n, who, " has a shape beyond any memory");
        count *= n;
        info.shape.push_back(n);
    }

    const json& offsets = entry["data_offsets"];
    require(offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() &&
                offsets[1].is_number_unsigned(),
            who, " must have two whole numbers as data_offsets; it has ", offsets.dump());
    info.begin = offsets[0].get<std::size_t>();
    info.end = offsets[1].get<std::size_t>();
    const std::size_t expected = static_cast<std::size_t>(count) * size_of(info.dtype);
    require(info.begin <= info.end && info.end - info.begin == expected, who, " must take ", expected,
            " bytes for its shape ", to_string(info.shape), "; its data_offsets are ", offsets.dump());
    return info;
}

// Steps from one word to another (Levenshtein), for suggestions.
std::size_t distance(const std::string& a, const std::string& b) {
    std::vector<std::size_t> row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i);
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, change}));
        }
    }
    return row.back();
}

}  // namespace

std::map<std::string, TensorInfo> parse_safetensors(std::span<const std::byte> bytes, const std::string& source) {
    require(bytes.size() >= size_bytes, source,
            " must be a .safetensors file, which begins with 8 bytes of header size; it has ", bytes.size(),
            " bytes");
    const std::uint64_t header_size = little_endian(bytes);
    require(header_size <= largest_header && header_size <= bytes.size() - size_bytes, source,
            " says that its header has ", header_size, " bytes, of a file of ", bytes.size(),
            ": it is cut short, or no .safetensors file");
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + size_bytes, header_size);
    const json header = parse_json(text, "the header of " + source);
    require(header.is_object(), "the header of ", source, " must be a JSON object");
    std::map<std::string, TensorInfo> tensors;
    for (const auto& [name, entry] : header.items())
        if (name != "__metadata__") tensors.emplace(name, parse_entry(name, entry, source));

    // The tensors cover the data from its first byte to its last.
    std::vector<const TensorInfo*> in_order;
    for (const auto& [name, info] : tensors) in_order.push_back(&info);
    std::sort(in_order.begin(), in_order.end(), [](const auto* a, const auto* b) {
        return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
    });
    std::size_t covered = 0;
    for (const TensorInfo* info : in_order) {
        require(info->begin == covered, source, " has a hole or an overlap in its data at byte ", covered,
                ": write it again");
        covered = info->end;
    }
    const std::size_t data = bytes.size() - size_bytes - header_size;
    require(covered == data, source, " must hold ", covered, " bytes of data by its header; it holds ", data,
            ": it is cut short or has extra bytes");
    return tensors;
}

SafetensorsFile::SafetensorsFile(const fs::path& path) {
    std::error_code error;
    require(fs::is_regular_file(path, error), "the file ", path.string(),
            " does not exist: check the path of the weights");
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(file >= 0, "the file ", path.string(), " cannot be opened: check its permissions");
    struct stat status {};
    const bool has_size = ::fstat(file, &status) == 0 && status.st_size > 0;
    void* address = MAP_FAILED;
    if (has_size) {
        size_ = static_cast<std::size_t>(status.st_size);
        address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    }
    ::close(file);
    require(has_size, "the file ", path.string(), " is empty: write it again");
    require(address != MAP_FAILED, "the file ", path.string(), " of ", size_, " bytes cannot be mapped into memory");
    const std::size_t size = size_;
    mapping_ = std::shared_ptr<const std::byte>(static_cast<const std::byte*>(address),
                                                [address, size](const std::byte*) { ::munmap(address, size); });
    const std::span<const std::byte> all(mapping_.get(), size_);
    tensors_ = parse_safetensors(all, path.string());
    data_at_ = size_bytes + static_cast<std::size_t>(little_endian(all));
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& info) const {
    return {mapping_.get() + data_at_ + info.begin, info.end - info.begin};
}

Checkpoint::Checkpoint(const fs::path& path) : source_(path.string()) {
    std::error_code error;
    fs::path file = path;
    if (fs::is_directory(path, error)) {
        file = path / "model.safetensors";
        if (!fs::exists(file, error)) file = path / "model.safetensors.index.json";
        require(fs::exists(file, error), "the folder ", path.string(),
                " must hold model.safetensors or model.safetensors.index.json; it holds neither");
    }
    if (file.extension() != ".json") {
        const SafetensorsFile& only = open_.emplace(file, SafetensorsFile(file)).first->second;
        for (const auto& [name, info] : only.tensors()) shard_of_.emplace(name, file);
        return;
    }
    const json index = read_json(file);
    require(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(), file.string(),
            " must hold a \"weight_map\" from tensor names to files");
    for (const auto& [name, shard] : index["weight_map"].items()) {
        require(shard.is_string(), file.string(), " must name a file for tensor \"", name, "\"; it has ",
                shard.dump());
        const fs::path shard_name = shard.get<std::string>();
        require(shard_name.has_filename() && shard_name == shard_name.filename() && shard_name != "..", file.string(),
                " must name files beside it, without folders; it has ", shard.dump());
        shard_of_.emplace(name, file.parent_path() / shard_name);
    }
}

std::vector<std::string> Checkpoint::names() const {
    std::vector<std::string> all;
    for (const auto& [name, file] : shard_of_) all.push_back(name);
    return all;
}

const SafetensorsFile& Checkpoint::shard(const std::string& name) const {
    const auto found = shard_of_.find(name);
    if (found == shard_of_.end()) {
        std::vector<std::pair<std::size_t, std::string>> near;
        for (const auto& [other, file] : shard_of_) near.emplace_back(distance(name, other), other);
        std::sort(near.begin(), near.end());
        std::string hint;
        for (std::size_t i = 0; i < std::min<std::size_t>(3, near.size()); ++i)
            hint += (i == 0 ? "; nearest: " : ", ") + near[i].second;
        refuse("the weights in ", source_, " have no tensor named ", name, hint);
    }
    const auto opened = open_.find(found->second);
    if (opened != open_.end()) return opened->second;
    return open_.emplace(found->second, SafetensorsFile(found->second)).first->second;
}

const TensorInfo& Checkpoint::info(const std::string& name) const {
    const SafetensorsFile& file = shard(name);
    const auto found = file.tensors().find(name);
    require(found != file.tensors().end(), "the index of ", source_, " says that tensor ", name, " is in ",
            shard_of_.at(name).string(), "; it is not");
    return found->second;
}

std::span<const std::byte> Checkpoint::bytes(const std::string& name) const { return shard(name).bytes(info(name)); }

StoredTensor Checkpoint::tensor(const std::string& name) const {
    const TensorInfo& found = info(name);
    const std::span<const std::byte> data = bytes(name);
    return {found.dtype, found.shape, {data.begin(), data.end()}};
}

void write_safetensors(const fs::path& path, const std::map<std::string, StoredTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
    json header = json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    std::size_t offset = 0;
    for (const auto& [name, tensor] : tensors) {
        std::string_view type;
        for (const FileType& known : file_types)
            if (known.dtype == tensor.dtype) type = known.name;
        header[name] = {
            {"dtype", type}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.bytes.size()}}};
        offset += tensor.bytes.size();
    }
    std::string text = header.dump();
    text.append((size_bytes - text.size() % size_bytes) % size_bytes, ' ');
    write_whole_file(path, [&](std::ostream& out) {
        for (std::size_t i = 0; i < size_bytes; ++i) out.put(static_cast<char>((text.size() >> (8 * i)) & 255));
        out << text;
        for (const auto& [name, tensor] : tensors)
            out.write(reinterpret_cast<const char*>(tensor.bytes.data()),
                      static_cast<std::streamsize>(tensor.bytes.size()));
    });
}

}  // namespace dsa
