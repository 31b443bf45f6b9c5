// Greedy decoding with the cache: one token at a time, the likeliest next. Every sum runs in the order of its
// index and no row depends on another, so the cached logits equal those of one uncached pass bit for bit.
#pragma once

#include "reference/model/transformer.h"

namespace dsa {

// The likeliest token; equal logits go to the lower id.
template <class Row>
std::int32_t likeliest(const Row& logits) {
    Eigen::Index best = 0;
    for (Eigen::Index v = 1; v < logits.size(); ++v)
        if (value_of(logits(v)) > value_of(logits(best))) best = v;
    return static_cast<std::int32_t>(best);
}

template <class P>
struct Generated {
    Array<std::int32_t> tokens;  // [N]
    Tensor<P> logits;            // [N, V], row i being what tokens[i] was chosen from
};

// Continues a prefilled sequence by `count` tokens. last_logits: [V], of the prompt's last token
template <class P, class Row>
Generated<P> generate(const Row& last_logits, Index count, ModelCache<P>& cache, const ModelWeights& w,
                      const ModelConfig& config, const Conventions& conventions) {
    Generated<P> out{Array<std::int32_t>({count}), Tensor<P>({count, w.head.cols()})};
    for (Index i = 0; i < count; ++i) {
        if (i == 0) {
            out.logits.row(0) = last_logits;
        } else {
            const Array<std::int32_t> last({1}, out.tokens[i - 1]);
            out.logits.row(i) = transformer<P>(last, cache, w, config, conventions, {}).logits.row(0);
        }
        out.tokens[i] = likeliest(out.logits.row(i));
    }
    return out;
}

}  // namespace dsa
