#include "optimized/training_step/head.h"

#include "optimized/linear/linear.h"
#include "optimized/training_step/between.h"

namespace dsa {
namespace {

constexpr int parts_of_number = 3;

// d_last of each part: three products with the head turned.
Linear product_of_parts(const TrainingStep& call, const bf16* d_logits, float* d_last) {
    const TrainingSizes& n = call.sizes;
    Linear product = packed_linear(d_logits, call.head, nullptr, n.T, n.V, n.D, call.stream);
    product.w_k = 1;
    product.w_n = n.V;
    product.y_float32 = d_last;
    product.heads = parts_of_number;
    product.x_head = n.T * n.V;
    product.y_head = n.T * n.D;
    return product;
}

}  // namespace

HeadScratch::HeadScratch(const TrainingStep& call, const Parts& parts, Arena& arena)
    : d_logits(nullptr), d_last(nullptr) {
    const TrainingSizes& n = call.sizes;
    if (parts.level() == 1 || !linear_level_2_declines(product_of_parts(call, nullptr, nullptr)).empty()) return;
    d_logits = arena.take<bf16>(parts_of_number * n.T * n.V);
    d_last = arena.take<float>(parts_of_number * n.T * n.D);
}

void head_backward(const TrainingStep& call, const Parts& parts, const HeadScratch& s, const float* d_logits,
                   const bf16* last, bf16* d_last) {
    const TrainingSizes& n = call.sizes;
    parts.weight_gradient(last, d_logits, call.dhead, n.D, n.V);
    if (s.d_logits == nullptr) return parts.input_gradient(d_logits, call.head, d_last, n.D, n.V);
    split_in_three(d_logits, s.d_logits, n.T * n.V, call.stream);
    linear(product_of_parts(call, s.d_logits, s.d_last), parts.products_level());
    add_three_parts(s.d_last, d_last, n.T * n.D, call.stream);
}

}  // namespace dsa
