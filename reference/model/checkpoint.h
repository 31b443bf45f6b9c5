// Weights by the names of DeepSeek-V3.2's Hugging Face checkpoint. Files stay mapped: a weight is read when a
// product needs it, converted from float32, bf16 or FP8 blocks on the way.
#pragma once

#include <memory>

#include "reference/files/safetensors.h"
#include "reference/model/transformer.h"

namespace dsa {

// Refuses a missing tensor, a wrong shape or dtype, and an FP8 tensor without its scales, each by name.
ModelWeights load_model(const std::shared_ptr<const Checkpoint>& checkpoint, const ModelConfig& config);

// Every tensor of a model of these sizes: its name and its shape, as stored.
std::map<std::string, Shape> tensor_shapes(const ModelConfig& config);

// Random but reasonable weights, each a function of seed, tensor name and element (spec section 12): the
// tensors that load_model reads, as bf16 (norms and the router as float32).
std::map<std::string, StoredTensor> random_weights(const ModelConfig& config, std::uint64_t seed);

}  // namespace dsa
