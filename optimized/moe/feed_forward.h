// A gated feed-forward net, W_down(silu(W_gate x) * W_up x), of one matrix each or of one an expert. Every product is
// stored as bf16. Against FP8 weights the rows are quantised too, one scale for 128 numbers. spec section 6.
#pragma once

#include "golden/dsa.h"
#include "optimized/support/arena.h"
#include "optimized/support/arguments.h"
#include "optimized/support/call.h"

namespace dsa {

// A weight [heads, K, N] as it is stored.
struct Matrix {
    const void* data = nullptr;
    dsa_dtype dtype = dsa_bfloat16;  // or float32 or float8_e4m3
    const float* scale = nullptr;    // of e4m3: one for 128 x 128, [heads, ceil(K / 128), ceil(N / 128)]

    bool is_fp8() const { return dtype == dsa_float8_e4m3; }
};

// Reads NAME and NAME_scale. axes: of NAME, with the two axes of the scale bound beside them.
Matrix read_matrix(Arguments& tensors, const std::string& name, const dsa_tensor& tensor, const dsa_tensor& scale,
                   std::initializer_list<const char*> axes);

// The rows of a product, and where they lie quantised if an FP8 weight asks for it.
struct Operand {
    const bf16* x;    // [count, K]
    e4m3* quantised;  // [count, K], or null
    float* scale;     // [count, ceil(K / 128)]
    std::int64_t count, K;
};
Operand lay_out_rows(Arena& arena, const bf16* x, std::int64_t count, std::int64_t K, bool quantised);
void quantise_rows(const Operand& rows, bool ue8m0, int level, Stream stream);

struct FeedForward {
    Matrix gate, up;  // [heads, D, F]
    Matrix down;      // [heads, F, D]
    std::int64_t D, F;
    std::int64_t heads = 1;
    std::int64_t most_rows;                   // of one matrix
    std::int64_t rows;                        // of y
    const std::int32_t* first_row = nullptr;  // as in Linear: the rows of each expert
    const std::int32_t* row_of = nullptr;
    bool ue8m0;
    Stream stream;

    bool quantises_x() const { return gate.is_fp8() || up.is_fp8(); }
};

struct FeedForwardScratch {
    bf16* gate;      // [rows, F]
    bf16* up;        // [rows, F]
    Operand hidden;  // [rows, F], in the place of gate
};
FeedForwardScratch lay_out_feed_forward(Arena& arena, const FeedForward& call);

// x: [most_rows, D], quantised if call.quantises_x()  ->  y [rows, D]
void feed_forward(const FeedForward& call, const Operand& x, const FeedForwardScratch& scratch, bf16* y, int level);

// hidden = silu(gate) * up. [count]; hidden may be gate's place.
void silu_product(const bf16* gate, const bf16* up, bf16* hidden, std::int64_t count, Stream stream);

}  // namespace dsa
