// Weights in .safetensors files. Format: an 8-byte little-endian header size, a JSON header, the data.
// huggingface/safetensors, README, "Format".
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reference/dtype.h"

namespace dsa {

struct TensorInfo {
    DType dtype = DType::float32;
    Shape shape;
    std::size_t begin = 0;  // in bytes from the start of the data
    std::size_t end = 0;
};

// The header of a file of `bytes`: checked entry by entry, so that nothing a file says can lead outside of it.
// Refuses overlaps, holes, wrong sizes, unknown dtypes, duplicate names and malformed JSON.
std::map<std::string, TensorInfo> parse_safetensors(std::span<const std::byte> bytes, const std::string& source);

// One file, mapped into memory.
class SafetensorsFile {
   public:
    explicit SafetensorsFile(const std::filesystem::path& path);

    const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
    std::span<const std::byte> bytes(const TensorInfo& info) const;

   private:
    std::shared_ptr<const std::byte> mapping_;
    std::size_t size_ = 0;
    std::size_t data_at_ = 0;
    std::map<std::string, TensorInfo> tensors_;
};

// A model's weights: a .safetensors file, a folder with model.safetensors or model.safetensors.index.json, or
// such an index, whose shards are opened when their tensors are asked for.
class Checkpoint {
   public:
    explicit Checkpoint(const std::filesystem::path& path);

    bool contains(const std::string& name) const { return shard_of_.contains(name); }
    std::vector<std::string> names() const;
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

// Readable by every safetensors library; whole or not at all.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, StoredTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace dsa
