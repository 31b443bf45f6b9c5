// From token ids to logits: embedding, layers, a last norm and the head.
#pragma once

#include <vector>

#include "reference/model/block.h"
#include "reference/model/config.h"

namespace dsa {

struct ModelWeights {
    Weight embedding;  // [V, D]
    std::vector<BlockWeights> blocks;
    Array<float> final_norm;  // [D]
    Weight head;              // [D, V]
};

template <class P>
using ModelCache = std::vector<LayerCache<P>>;  // one a layer

template <class P>
struct ModelOutput {
    std::vector<Tensor<P>> hidden;  // [T, D] each: the embedding, then the residual stream after each layer
    Tensor<P> logits;               // [T, V], float32
};

// tokens: [T] of one sequence, each in [0, V), following on the tokens already in `cache`
template <class P>
ModelOutput<P> transformer(const Array<std::int32_t>& tokens, ModelCache<P>& cache, const ModelWeights& w,
                           const ModelConfig& config, const Conventions& conventions, const Trace& trace) {
    const Index T = tokens.size();
    cache.resize(w.blocks.size());
    const Index before = cache.empty() || cache.front().kv.shape().empty() ? 0 : cache.front().kv.dim(0);
    require(before + T <= config.rope.max_context,
            "the model's context ends at max_position_embeddings = ", config.rope.max_context, " tokens; ",
            before + T, " were given: shorten the text, or raise it in config.json");
    Array<std::int32_t> positions({T});
    for (Index t = 0; t < T; ++t) positions[t] = static_cast<std::int32_t>(before + t);
    const Array<std::int32_t> start({T}, 0);
    const AttentionSettings settings{config.topk, config.scale(), config.norm_eps, config.rope, conventions};

    ModelOutput<P> out;
    Tensor<P> hidden({T, config.D});
    std::vector<float> row(static_cast<std::size_t>(config.D));
    for (Index t = 0; t < T; ++t) {
        require(tokens[t] >= 0 && tokens[t] < w.embedding.rows(), "tokens[", t, "] must be between 0 and ",
                w.embedding.rows() - 1, ", the vocabulary's last id; it is ", tokens[t]);
        w.embedding.read(tokens[t], 0, config.D, row.data());
        for (Index d = 0; d < config.D; ++d)
            hidden(t, d) = P::bf16(typename P::Real(static_cast<double>(row[static_cast<std::size_t>(d)])));
    }
    out.hidden.push_back(trace.pass("embedding", std::move(hidden), DType::bfloat16));
    for (std::size_t layer = 0; layer < w.blocks.size(); ++layer)
        out.hidden.push_back(transformer_block(out.hidden.back(), positions, start, cache[layer], w.blocks[layer],
                                               settings, trace.inside("layer_" + std::to_string(layer))));
    const Tensor<P> last =
        trace.pass("final_norm", rms_norm(out.hidden.back(), w.final_norm, config.norm_eps), DType::bfloat16);
    out.logits = matmul(last, w.head);
    return out;
}

// Much to compile, and compiled once: by ops/layers.cpp.
template <class P>
using Transformer = ModelOutput<P>(const Array<std::int32_t>&, ModelCache<P>&, const ModelWeights&,
                                   const ModelConfig&, const Conventions&, const Trace&);
extern template Transformer<Exact> transformer<Exact>;
extern template Transformer<Deployed> transformer<Deployed>;

}  // namespace dsa
