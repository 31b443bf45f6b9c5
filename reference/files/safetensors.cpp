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
constexpr const char* rewrite = ": write the file again";
constexpr std::size_t longest_name = 1000;  // that a suggestion is sought for

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
    const std::string who = "in " + source + " the tensor \"" + quotable(name) + "\"";
    require(entry.is_object() && entry.size() == 3 && entry.contains("dtype") && entry.contains("shape") &&
                entry.contains("data_offsets"),
            who, " must have dtype, shape and data_offsets, and nothing else; it has ", quotable(entry.dump()),
            rewrite);
    TensorInfo info;
    const FileType* type = nullptr;
    for (const FileType& known : file_types)
        if (entry["dtype"] == known.name) type = &known;
    require(type != nullptr, who, " must have dtype F64, F32, BF16, F8_E4M3, U8, I32, I64 or BOOL; it has ",
            quotable(entry["dtype"].dump()), ": convert it and save it again");
    info.dtype = type->dtype;

    require(entry["shape"].is_array(), who, " must have a list as its shape; it has ",
            quotable(entry["shape"].dump()), rewrite);
    Index count = 1;
    for (const json& extent : entry["shape"]) {
        require(
            extent.is_number_unsigned() && extent.get<std::uint64_t>() <= static_cast<std::uint64_t>(largest_extent),
            who, " must have whole numbers as its shape, none below 0 or beyond any memory; it has ",
            quotable(extent.dump()), rewrite);
        const auto n = extent.get<Index>();
        require(n == 0 || count <= largest_extent / n, who, " has a shape beyond any memory, ",
                quotable(entry["shape"].dump()), rewrite);
        count *= n;
        info.shape.push_back(n);
    }

    const json& offsets = entry["data_offsets"];
    require(offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() &&
                offsets[1].is_number_unsigned(),
            who, " must have two whole numbers as data_offsets; it has ", quotable(offsets.dump()), rewrite);
    info.begin = offsets[0].get<std::size_t>();
    info.end = offsets[1].get<std::size_t>();
    const std::size_t expected = static_cast<std::size_t>(count) * size_of(info.dtype);
    require(info.begin <= info.end && info.end - info.begin == expected, who, " must take ", expected,
            " bytes for its shape ", to_string(info.shape), "; its data_offsets are ", offsets.dump(), rewrite);
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

// "there is no X, but there are these"
template <class Map>
[[noreturn]] void refuse_missing(const std::string& source, const std::string& name, const Map& there) {
    std::vector<std::pair<std::size_t, std::string>> near;
    for (const auto& [other, value] : there)
        if (std::max(name.size(), other.size()) <= longest_name) near.emplace_back(distance(name, other), other);
    std::sort(near.begin(), near.end());
    std::string nearest;
    for (std::size_t i = 0; i < std::min<std::size_t>(3, near.size()); ++i)
        nearest += (i == 0 ? "" : ", ") + quotable(near[i].second);
    refuse("the weights in ", source, " must have a tensor named ", quotable(name), "; of its ", there.size(),
           " tensors none is", nearest.empty() ? "" : ", the nearest being ", nearest);
}

template <class Map>
std::vector<std::string> keys_of(const Map& map) {
    std::vector<std::string> keys;
    for (const auto& [key, value] : map) keys.push_back(key);
    return keys;
}

// A name for the file itself: no folders, nothing that an operating system reads as more than a name.
bool is_shard_name(const std::string& name) {
    return name.ends_with(".safetensors") && name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

}  // namespace

std::map<std::string, TensorInfo> parse_safetensors(std::span<const std::byte> bytes, const std::string& source) {
    require(bytes.size() >= size_bytes, source,
            " must be a .safetensors file, which begins with 8 bytes of header size; it has ", bytes.size(), " bytes",
            rewrite);
    const std::uint64_t header_size = little_endian(bytes);
    require(header_size <= bytes.size() - size_bytes, source, " must hold a header of ", header_size,
            " bytes by its first 8 bytes; the file has ", bytes.size(), ": it is cut short, or no .safetensors file");
    require(header_size <= largest_header, source, " must have a header of at most ", largest_header,
            " bytes; it has ", header_size, ": split the tensors over several files");
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + size_bytes, header_size);
    require(text.starts_with('{'), "the header of ", source, " must begin with {; it begins with '",
            quotable(text.substr(0, 8)), "'", rewrite);
    const json header = parse_json(text, "the header of " + source);
    std::map<std::string, TensorInfo> tensors;
    for (const auto& [name, entry] : header.items()) {
        if (name != "__metadata__") {
            tensors.emplace(name, parse_entry(name, entry, source));
            continue;
        }
        require(entry.is_object(), "the __metadata__ of ", source, " must be an object of strings; it is ",
                quotable(entry.dump()), rewrite);
        for (const auto& [key, value] : entry.items())
            require(value.is_string(), "the __metadata__ of ", source, " must be strings; \"", quotable(key),
                    "\" is ", quotable(value.dump()), rewrite);
    }

    // The tensors cover the data from its first byte to its last.
    std::vector<const TensorInfo*> in_order;
    for (const auto& [name, info] : tensors) in_order.push_back(&info);
    std::sort(in_order.begin(), in_order.end(), [](const TensorInfo* a, const TensorInfo* b) {
        return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
    });
    std::size_t covered = 0;
    for (const TensorInfo* info : in_order) {
        require(info->begin == covered, source, " must have its tensors one after another; there is ",
                info->begin > covered ? "a hole" : "an overlap", " in its data at byte ",
                std::min(info->begin, covered), rewrite);
        covered = info->end;
    }
    const std::size_t data = bytes.size() - size_bytes - header_size;
    require(covered == data, source, " must hold ", covered, " bytes of data by its header; it holds ", data,
            ": it is cut short or has bytes left over");
    return tensors;
}

SafetensorsFile::SafetensorsFile(const fs::path& path) : source_(path.string()) {
    std::error_code error;
    require(fs::exists(path, error), "the file ", source_, " does not exist: check the path of the weights");
    // Asked before opening: opening a pipe would wait for its other end.
    require(fs::is_regular_file(path, error), source_, " must be a .safetensors file; it is something else");
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(file >= 0, "the file ", source_, " cannot be opened: check its permissions");
    struct stat status {};
    const std::size_t size = ::fstat(file, &status) == 0 ? static_cast<std::size_t>(status.st_size) : 0;
    void* address = size == 0 ? MAP_FAILED : ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);  // the mapping stays
    require(size > 0, "the file ", source_, " must be a .safetensors file; it is empty", rewrite);
    require(address != MAP_FAILED, "the file ", source_, " of ", size, " bytes cannot be mapped into memory");
    mapping_ = std::shared_ptr<const std::byte>(static_cast<const std::byte*>(address),
                                                [address, size](const std::byte*) { ::munmap(address, size); });
    const std::span<const std::byte> all(mapping_.get(), size);
    tensors_ = parse_safetensors(all, source_);
    data_at_ = size_bytes + static_cast<std::size_t>(little_endian(all));
}

std::vector<std::string> SafetensorsFile::names() const { return keys_of(tensors_); }

const TensorInfo& SafetensorsFile::info(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) refuse_missing(source_, name, tensors_);
    return found->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
    const TensorInfo& found = info(name);
    return {mapping_.get() + data_at_ + found.begin, found.end - found.begin};
}

StoredTensor SafetensorsFile::tensor(const std::string& name) const {
    const TensorInfo& found = info(name);
    const std::span<const std::byte> data = bytes(name);
    return {found.dtype, found.shape, {data.begin(), data.end()}};
}

Checkpoint::Checkpoint(const fs::path& path) : source_(path.string()) {
    std::error_code error;
    fs::path file = path;
    if (fs::is_directory(path, error)) {
        file = path / "model.safetensors";
        if (!fs::exists(file, error)) file = path / "model.safetensors.index.json";
        require(fs::exists(file, error), "the folder ", source_,
                " must hold model.safetensors or model.safetensors.index.json; it holds neither: check the path of "
                "the weights");
    }
    if (file.extension() != ".json") {
        const SafetensorsFile& only = open_.emplace(file, SafetensorsFile(file)).first->second;
        for (const std::string& name : only.names()) shard_of_.emplace(name, file);
        return;
    }
    const json index = read_json(file);
    require(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(), file.string(),
            " must hold a \"weight_map\" from tensor names to files; it holds none");
    for (const auto& [name, shard] : index["weight_map"].items()) {
        require(shard.is_string() && is_shard_name(shard.get<std::string>()), file.string(),
                " must name a .safetensors file beside it, without folders, for tensor \"", quotable(name),
                "\"; it has ", quotable(shard.dump()));
        shard_of_.emplace(name, file.parent_path() / shard.get<std::string>());
    }
}

std::vector<std::string> Checkpoint::names() const { return keys_of(shard_of_); }

const SafetensorsFile& Checkpoint::shard(const std::string& name) const {
    const auto found = shard_of_.find(name);
    if (found == shard_of_.end()) refuse_missing(source_, name, shard_of_);
    const auto opened = open_.find(found->second);
    if (opened != open_.end()) return opened->second;
    return open_.emplace(found->second, SafetensorsFile(found->second)).first->second;
}

const TensorInfo& Checkpoint::info(const std::string& name) const { return shard(name).info(name); }

std::span<const std::byte> Checkpoint::bytes(const std::string& name) const { return shard(name).bytes(name); }

StoredTensor Checkpoint::tensor(const std::string& name) const { return shard(name).tensor(name); }

void write_safetensors(const fs::path& path, const std::map<std::string, StoredTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
    std::vector<std::pair<std::string, const StoredTensor*>> in_order;
    for (const auto& [name, tensor] : tensors) in_order.emplace_back(name, &tensor);
    std::stable_sort(in_order.begin(), in_order.end(), [](const auto& a, const auto& b) {
        return size_of(a.second->dtype) > size_of(b.second->dtype);
    });
    json header = json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    std::size_t offset = 0;
    for (const auto& [name, tensor] : in_order) {
        const std::size_t size = static_cast<std::size_t>(tensor->size()) * size_of(tensor->dtype);
        require(name != "__metadata__", path.string(),
                " cannot be written: no tensor may be named __metadata__, give it another name");
        require(tensor->bytes.size() == size, path.string(), " cannot be written: the tensor \"", quotable(name),
                "\" of shape ", to_string(tensor->shape), " must have ", size, " bytes; it has ",
                tensor->bytes.size());
        std::string_view type;
        for (const FileType& known : file_types)
            if (known.dtype == tensor->dtype) type = known.name;
        header[name] = {{"dtype", type}, {"shape", tensor->shape}, {"data_offsets", {offset, offset + size}}};
        offset += size;
    }
    std::string text;
    try {
        text = header.dump();
    } catch (const json::exception&) {
        refuse(path.string(), " cannot be written: the names of tensors and the metadata must be UTF-8");
    }
    text.append((size_bytes - text.size() % size_bytes) % size_bytes, ' ');
    require(text.size() <= largest_header, path.string(), " cannot be written: its header must have at most ",
            largest_header, " bytes; it has ", text.size(), ": split the tensors over several files");
    write_whole_file(path, [&](std::ostream& out) {
        for (std::size_t i = 0; i < size_bytes; ++i) out.put(static_cast<char>((text.size() >> (8 * i)) & 255));
        out << text;
        for (const auto& [name, tensor] : in_order)
            out.write(reinterpret_cast<const char*>(tensor->bytes.data()),
                      static_cast<std::streamsize>(tensor->bytes.size()));
    });
}

}  // namespace dsa
