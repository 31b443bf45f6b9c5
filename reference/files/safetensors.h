// Weights in .safetensors files. Format: an 8-byte little-endian header size, a JSON header, the data.
// huggingface/safetensors, README, "Format".
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "reference/dtype.h"

namespace dsa {

struct TensorInfo {
    DType dtype = DType::float32;
    Shape shape;
    std::size_t begin = 0;  // in bytes from the start of the data
    std::size_t end = 0;
};

// What a file of `bytes` holds, by name; every entry is checked, so that nothing a file says can lead outside
// of it. Refuses a header that does not fit the file or is not JSON, unknown dtypes, wrong sizes, names given
// twice, and data with an overlap, a hole, or bytes missing or left over.
std::map<std::string, TensorInfo> parse_safetensors(std::span<const std::byte> bytes, const std::string& source);

// One file, mapped into memory: opening it reads its header only. The file must not shrink while it is open.
class SafetensorsFile {
   public:
    explicit SafetensorsFile(const std::filesystem::path& path);

    std::vector<std::string> names() const;
    bool contains(const std::string& name) const { return tensors_.contains(name); }
    // These refuse a name that is not there, with names that are near it. The bytes live as long as the file.
    const TensorInfo& info(const std::string& name) const;
    std::span<const std::byte> bytes(const std::string& name) const;
    StoredTensor tensor(const std::string& name) const;

   private:
    std::string source_;
    std::shared_ptr<const std::byte> mapping_;
    std::size_t data_at_ = 0;
    std::map<std::string, TensorInfo> tensors_;
};

// A model's weights: a .safetensors file, a folder with model.safetensors or model.safetensors.index.json, or
// such an index, whose shards are opened when their tensors are asked for (so: one thread at a time).
class Checkpoint {
   public:
    explicit Checkpoint(const std::filesystem::path& path);

    std::vector<std::string> names() const;
    bool contains(const std::string& name) const { return shard_of_.contains(name); }
    // These refuse a name that is not there, with names that are near it.
    const TensorInfo& info(const std::string& name) const;
    std::span<const std::byte> bytes(const std::string& name) const;
    StoredTensor tensor(const std::string& name) const;

   private:
    const SafetensorsFile& shard(const std::string& name) const;

    std::string source_;
    std::map<std::string, std::filesystem::path> shard_of_;
    mutable std::map<std::filesystem::path, SafetensorsFile> open_;
};

// Readable by every safetensors library; whole or not at all. Data are in the order of item size, largest
// first, so that each tensor is aligned.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, StoredTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace dsa
