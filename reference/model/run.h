// The command `dsa-reference model`: files in, files out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dsa {

struct ModelRunOptions {
    std::filesystem::path config;
    std::filesystem::path weights;
    std::filesystem::path tokens;
    std::filesystem::path out;
    std::string tier = "exact";
    std::string conventions = "deepseek-v3.2-exp";
    int decode = 0;
    std::vector<std::string> trace;
};

// Writes, for B sequences of T tokens, logits.npy [B, T, V]; hidden_0.npy (embedding) to hidden_L.npy (residual
// stream after each layer) [B, T, D]; with decode: decode_tokens.npy [B, N] and decode_logits.npy [B, N, V], row
// i being what token i was chosen from; and layer_I.STAGE.npy [B, ...] for each traced stage of the prefill.
// float64 in the exact tier, float32 in the deployed one, int32 for choices.
void run_model(const ModelRunOptions& options);

void write_random_model(const std::filesystem::path& config, std::uint64_t seed, const std::filesystem::path& out);

}  // namespace dsa
