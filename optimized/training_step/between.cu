// A thread a number, but for what walks along something.
#include "optimized/attention/selected_by.cuh"
#include "optimized/attention/softmax.cuh"
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"
#include "optimized/support/rotary.cuh"
#include "optimized/training_step/between.h"

namespace dsa {
namespace {

constexpr int threads = 256;

__device__ float not_a_number() { return __uint_as_float(0x7fffffffU); }
__device__ std::int64_t own_number() { return std::int64_t{blockIdx.x} * threads + threadIdx.x; }

// Of kernels with a thread for each of `count` numbers.
Launch a_thread_each(std::int64_t count, Stream stream) {
    return {.blocks = blocks_for(count, threads), .threads = threads, .stream = stream};
}

__global__ void __launch_bounds__(threads)
    rows_of_causal(std::int32_t* positions, std::int32_t* start, std::int32_t* end, std::int64_t T) {
    const std::int64_t t = own_number();
    if (t >= T) return;
    positions[t] = static_cast<std::int32_t>(t);
    start[t] = 0;
    end[t] = static_cast<std::int32_t>(t + 1);
}

__global__ void __launch_bounds__(threads) zeros(float* numbers, std::int64_t count) {
    const std::int64_t i = own_number();
    if (i < count) numbers[i] = 0.0F;
}

// Block (token).
__global__ void __launch_bounds__(threads)
    rows_of_table(const bf16* table, const std::int32_t* tokens, bf16* y, std::int64_t V, std::int64_t D) {
    const std::int64_t t = blockIdx.x;
    const std::int64_t token = tokens[t];
    const bool is_word = token >= 0 && token < V;
    for (std::int64_t d = threadIdx.x; d < D; d += threads)
        y[t * D + d] = is_word ? table[token * D + d] : to_bf16(not_a_number());
}

// Block (token, 256 columns). The first of equal tokens adds up for all of them, in their order. A lane looks at one
// of 32 tokens at a time, the same ones in every warp.
__global__ void __launch_bounds__(threads) gradient_of_word(const std::int32_t* tokens, const bf16* dy, float* dtable,
                                                            std::int64_t T, std::int64_t V, std::int64_t D) {
    const std::int64_t first = blockIdx.x;
    const std::int32_t token = tokens[first];
    if (token < 0 || token >= V) return;
    const std::int64_t d = std::int64_t{blockIdx.y} * threads + threadIdx.x;
    float sum = 0.0F;
    for (std::int64_t begin = 0; begin < T; begin += warp_size) {
        const std::int64_t mine = begin + lane_id();
        std::uint32_t equal = __ballot_sync(all_lanes, mine < T && tokens[mine] == token);
        for (; equal != 0; equal &= equal - 1) {
            const std::int64_t t = begin + __ffs(equal) - 1;
            if (t < first) return;
            if (d < D) sum += to_float(dy[t * D + d]);
        }
    }
    if (d < D) dtable[token * D + d] = sum;
}

template <class Number>
__global__ void __launch_bounds__(threads) columns(const Number* from, std::int64_t from_row, Number* to,
                                                   std::int64_t to_row, std::int64_t count, std::int64_t width) {
    const std::int64_t i = own_number();
    if (i < count) to[i / width * to_row + i % width] = from[i / width * from_row + i % width];
}

// A thread a pair of a token: sine and cosine once, then all heads.
__global__ void __launch_bounds__(threads) turn_pair(__grid_constant__ const Turned call) {
    const int pairs = call.table.pairs;
    const std::int64_t t = own_number() / pairs;
    const int i = static_cast<int>(own_number() % pairs);
    if (t >= call.T) return;
    const Turn turn = turn_of(static_cast<std::int32_t>(t), call.table.frequency[i]);
    const float sine = call.back ? -turn.sine : turn.sine;
    const int first = first_of(call.layout, i);
    const int second = second_of(call.layout, i, pairs);
    for (std::int64_t h = 0; h < call.heads; ++h) {
        const bf16* x = call.x + t * call.x_row + h * call.x_head;
        bf16* y = call.y + t * call.y_row + h * call.y_head;
        const float a = to_float(x[first]);
        const float b = to_float(x[second]);
        y[first] = to_bf16(a * turn.cosine - b * sine);
        y[second] = to_bf16(a * sine + b * turn.cosine);
    }
}

// Block (token).
__global__ void __launch_bounds__(threads)
    keys_and_values(const bf16* kv_heads, const bf16* k_rope, bf16* k, bf16* v, TrainingSizes n) {
    const std::int64_t t = blockIdx.x;
    const std::int64_t width = n.d_nope + n.d_v;
    const std::int64_t d_q = n.d_nope + n.d_rope;
    const bf16* row = kv_heads + t * n.H * width;  // [H, d_nope + d_v]
    for (std::int64_t i = threadIdx.x; i < n.H * d_q; i += threads) {
        const std::int64_t c = i % d_q;
        k[t * n.H * d_q + i] = c < n.d_nope ? row[i / d_q * width + c] : k_rope[t * n.d_rope + c - n.d_nope];
    }
    for (std::int64_t i = threadIdx.x; i < n.H * n.d_v; i += threads)
        v[t * n.H * n.d_v + i] = row[i / n.d_v * width + n.d_nope + i % n.d_v];
}

// Block (token).
__global__ void __launch_bounds__(threads)
    keys_and_values_backward(const float* dk, const bf16* dv, bf16* d_kv_heads, bf16* d_k_rope, TrainingSizes n) {
    const std::int64_t t = blockIdx.x;
    const std::int64_t width = n.d_nope + n.d_v;
    const std::int64_t d_q = n.d_nope + n.d_rope;
    const float* keys = dk + t * n.H * d_q;  // [H, d_q]
    for (std::int64_t i = threadIdx.x; i < n.H * width; i += threads) {
        const std::int64_t h = i / width;
        const std::int64_t c = i % width;
        d_kv_heads[t * n.H * width + i] =
            c < n.d_nope ? to_bf16(keys[h * d_q + c]) : dv[(t * n.H + h) * n.d_v + c - n.d_nope];
    }
    for (std::int64_t c = threadIdx.x; c < n.d_rope; c += threads) {
        float sum = 0.0F;
        for (std::int64_t h = 0; h < n.H; ++h) sum += keys[h * d_q + n.d_nope + c];
        d_k_rope[t * n.d_rope + c] = to_bf16(sum);
    }
}

__global__ void __launch_bounds__(threads) sum_of_parts(const float* a, const float* b, bf16* y, std::int64_t count) {
    const std::int64_t i = own_number();
    if (i < count) y[i] = to_bf16(a[i] + b[i]);
}

__global__ void __launch_bounds__(threads) widened(const bf16* x, float* y, std::int64_t count) {
    const std::int64_t i = own_number();
    if (i < count) y[i] = to_float(x[i]);
}

__global__ void __launch_bounds__(threads)
    dequantised(const e4m3* x, const float* scale, float* y, std::int64_t count, std::int64_t width) {
    const std::int64_t i = own_number();
    if (i < count) y[i] = to_float(x[i]) * scale[i / width];
}

__global__ void __launch_bounds__(threads) narrowed(const float* x, bf16* y, std::int64_t count) {
    const std::int64_t i = own_number();
    if (i < count) y[i] = to_bf16(x[i]);
}

__global__ void __launch_bounds__(threads)
    scaled_weights(float* x, float factor, bool stored_as_bf16, std::int64_t count) {
    const std::int64_t i = own_number();
    if (i < count) x[i] = (stored_as_bf16 ? through_bf16(x[i]) : x[i]) * factor;
}

__global__ void __launch_bounds__(threads) three_parts(const float* x, bf16* y, std::int64_t count) {
    const std::int64_t i = own_number();
    if (i >= count) return;
    const float first = through_bf16(x[i]);
    const float second = through_bf16(x[i] - first);
    y[2 * count + i] = to_bf16(first);
    y[count + i] = to_bf16(second);
    y[i] = to_bf16(x[i] - first - second);
}

__global__ void __launch_bounds__(threads) sum_of_three(const float* parts, bf16* y, std::int64_t count) {
    const std::int64_t i = own_number();
    if (i < count) y[i] = to_bf16(parts[i] + parts[count + i] + parts[2 * count + i]);
}

__global__ void __launch_bounds__(threads)
    selected_scores(float* scores, const std::int32_t* indices, const std::uint32_t* selectors, std::int64_t T,
                    std::int64_t k) {
    const std::int64_t i = own_number();
    if (i >= T * T) return;
    const std::int64_t t = i / T;
    if (indices[t * k] < -1)  // top_k/op.h: it met a NaN
        scores[i] = not_a_number();
    else if (!is_selected(selectors, T, i % T, t))
        scores[i] = minus_infinity();
}

}  // namespace

void causal_rows(std::int32_t* positions, std::int32_t* start, std::int32_t* end, std::int64_t T, Stream stream) {
    launch("training_causal_rows", rows_of_causal, a_thread_each(T, stream), positions, start, end, T);
}

void fill_zeros(float* numbers, std::int64_t count, Stream stream) {
    launch("training_zeros", zeros, a_thread_each(count, stream), numbers, count);
}

void look_up(const bf16* table, const std::int32_t* tokens, bf16* y, const TrainingSizes& sizes, Stream stream) {
    launch("training_look_up", rows_of_table, {.blocks = sizes.T, .threads = threads, .stream = stream}, table,
           tokens, y, sizes.V, sizes.D);
}

void look_up_backward(const std::int32_t* tokens, const bf16* dy, float* dtable, const TrainingSizes& sizes,
                      Stream stream) {
    fill_zeros(dtable, sizes.V * sizes.D, stream);
    launch("training_gradient_of_word", gradient_of_word,
           {.blocks = sizes.T, .threads = threads, .stream = stream, .blocks_y = blocks_for(sizes.D, threads)},
           tokens, dy, dtable, sizes.T, sizes.V, sizes.D);
}

void copy_columns(const bf16* from, std::int64_t from_row, bf16* to, std::int64_t to_row, std::int64_t rows,
                  std::int64_t width, Stream stream) {
    launch("training_copy_columns", columns<bf16>, a_thread_each(rows * width, stream), from, from_row, to, to_row,
           rows * width, width);
}
void copy_columns(const float* from, std::int64_t from_row, float* to, std::int64_t to_row, std::int64_t rows,
                  std::int64_t width, Stream stream) {
    launch("training_copy_columns", columns<float>, a_thread_each(rows * width, stream), from, from_row, to, to_row,
           rows * width, width);
}

void turn_heads(const Turned& call) {
    launch("training_turn_heads", turn_pair, a_thread_each(call.T * call.table.pairs, call.stream), call);
}

void own_keys(const bf16* kv_heads, const bf16* k_rope, bf16* k, bf16* v, const TrainingSizes& sizes, Stream stream) {
    launch("training_own_keys", keys_and_values, {.blocks = sizes.T, .threads = threads, .stream = stream}, kv_heads,
           k_rope, k, v, sizes);
}
void own_keys_backward(const float* dk, const bf16* dv, bf16* d_kv_heads, bf16* d_k_rope, const TrainingSizes& sizes,
                       Stream stream) {
    launch("training_own_keys_backward", keys_and_values_backward,
           {.blocks = sizes.T, .threads = threads, .stream = stream}, dk, dv, d_kv_heads, d_k_rope, sizes);
}

void add_parts(const float* a, const float* b, bf16* y, std::int64_t count, Stream stream) {
    launch("training_add_parts", sum_of_parts, a_thread_each(count, stream), a, b, y, count);
}

void widen(const bf16* x, float* y, std::int64_t count, Stream stream) {
    launch("training_widen", widened, a_thread_each(count, stream), x, y, count);
}
void dequantise(const e4m3* x, const float* scale, float* y, std::int64_t count, std::int64_t width, Stream stream) {
    launch("training_dequantise", dequantised, a_thread_each(count, stream), x, scale, y, count, width);
}
void narrow(const float* x, bf16* y, std::int64_t count, Stream stream) {
    launch("training_narrow", narrowed, a_thread_each(count, stream), x, y, count);
}
void scale_weights(float* x, float factor, bool stored_as_bf16, std::int64_t count, Stream stream) {
    launch("training_scale_weights", scaled_weights, a_thread_each(count, stream), x, factor, stored_as_bf16, count);
}

void split_in_three(const float* x, bf16* y, std::int64_t count, Stream stream) {
    launch("training_split_in_three", three_parts, a_thread_each(count, stream), x, y, count);
}
void add_three_parts(const float* parts, bf16* y, std::int64_t count, Stream stream) {
    launch("training_add_three_parts", sum_of_three, a_thread_each(count, stream), parts, y, count);
}
void keep_selected_scores(float* scores, const std::int32_t* indices, const std::uint32_t* selectors, std::int64_t T,
                          std::int64_t k, Stream stream) {
    launch("training_selected_scores", selected_scores, a_thread_each(T * T, stream), scores, indices, selectors, T,
           k);
}

}  // namespace dsa
