// dsa-reference train: runs a recipe, stage by stage, and can be stopped and started again at any time.
#pragma once

#include "reference/training/recipe.h"

namespace dsa {

struct TrainOptions {
    std::filesystem::path recipe;
    std::filesystem::path out;
    std::optional<std::uint64_t> seed;
    int threads = 0;  // 0: as many as there are processors. The numbers do not depend on it.
};

// Writes into `out`:
//   STAGE/model.safetensors, config.json  the trained weights, float32, Hugging Face's names
//   STAGE/log.jsonl                       a line a step: losses, KL, captured mass, recall, gradient norms, rates
//   STAGE/state.safetensors               while the stage is not done: weights and optimizer, to go on from
//   evaluation.json                       the parity table
// A stage whose weights are there is not trained again; a folder of another recipe is refused. The files are the same
// to the byte for the same recipe and seed, however often the run was stopped.
void train(const TrainOptions& options);

// W ~ N(0, 1 / in), the projections back to the residual stream smaller by sqrt(2 layers), norms 1, biases 0.
template <class P>
Parameters<P> initial_parameters(const ModelConfig& config, std::uint64_t seed, double embedding_std = 0.1);

}  // namespace dsa
