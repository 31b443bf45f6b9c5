// Tokens to their experts and back. A block an expert finds its own visits, by looking at all choices twice: no block
// waits for another, and the order is that of the tokens, every time.
#include "optimized/hopper/numbers.h"
#include "optimized/moe/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;

struct Shared {
    int sums[32];
};

__global__ void __launch_bounds__(threads)
    moe_sort_visits(const std::int32_t* experts, std::int64_t choices, int active, std::int32_t* first_row,
                    std::int32_t* token_of, std::int32_t* visit_of) {
    Shared& memory = shared<Shared>();
    const auto e = static_cast<int>(blockIdx.x);
    int before = 0;  // visits to lower experts
    for (std::int64_t i = threadIdx.x; i < choices; i += threads) before += experts[i] < e ? 1 : 0;
    int next = over_block(before, memory.sums, Sum());
    if (threadIdx.x == 0) {
        first_row[e] = next;
        if (blockIdx.x + 1 == gridDim.x) first_row[gridDim.x] = static_cast<std::int32_t>(choices);
    }
    for (std::int64_t begin = 0; begin < choices; begin += threads) {
        const std::int64_t i = begin + threadIdx.x;
        const bool mine = i < choices && experts[i] == e;
        const std::uint32_t vote = __ballot_sync(all_lanes, mine);
        if (lane_id() == 0) memory.sums[warp_id()] = __popc(vote);
        __syncthreads();
        int visit = next + __popc(vote & ((1U << lane_id()) - 1U));
        for (int w = 0; w < warps; ++w) {
            if (w < warp_id()) visit += memory.sums[w];
            next += memory.sums[w];
        }
        if (mine) {
            token_of[visit] = static_cast<std::int32_t>(i / active);
            visit_of[i] = visit;
        }
        __syncthreads();
    }
}

template <int own>
struct alignas(own * sizeof(bf16)) Piece {
    bf16 v[own];
};

// own: numbers of a thread, which come in one load
template <int own>
__global__ void __launch_bounds__(threads)
    moe_combine_visits(const bf16* out, const std::int32_t* visit_of, const float* weights, const bf16* shared_out,
                       bf16* y, std::int64_t D, int active) {
    const std::int64_t t = blockIdx.x;
    const std::int64_t d = (std::int64_t{blockIdx.y} * threads + threadIdx.x) * own;
    if (d >= D) return;
    const auto piece_of = [&](const bf16* rows, std::int64_t row) {
        return *reinterpret_cast<const Piece<own>*>(rows + row * D + d);
    };
    float sum[own] = {};
#pragma unroll 4
    for (int i = 0; i < active; ++i) {
        const float weight = weights[t * active + i];
        const Piece<own> piece = piece_of(out, visit_of[t * active + i]);
#pragma unroll
        for (int n = 0; n < own; ++n) sum[n] += weight * to_float(piece.v[n]);
    }
    Piece<own> result;
    const Piece<own> of_all = shared_out != nullptr ? piece_of(shared_out, t) : Piece<own>{};
#pragma unroll
    for (int n = 0; n < own; ++n)
        result.v[n] = to_bf16(shared_out != nullptr ? sum[n] + to_float(of_all.v[n]) : sum[n]);
    *reinterpret_cast<Piece<own>*>(y + t * D + d) = result;
}

template <int own>
void combine(const bf16* out, const std::int32_t* visit_of, const float* weights, const bf16* shared, bf16* y,
             std::int64_t T, std::int64_t D, int active, Stream stream) {
    launch("moe_combine_visits", moe_combine_visits<own>,
           {.blocks = T, .threads = threads, .stream = stream, .blocks_y = blocks_for(D, threads * own)}, out,
           visit_of, weights, shared, y, D, active);
}

}  // namespace

void sort_visits(const std::int32_t* experts, std::int64_t T, int active, std::int64_t E, std::int32_t* first_row,
                 std::int32_t* token_of, std::int32_t* visit_of, Stream stream) {
    launch("moe_sort_visits", moe_sort_visits,
           {.blocks = E, .threads = threads, .shared_bytes = sizeof(Shared), .stream = stream}, experts, T * active,
           active, first_row, token_of, visit_of);
}

void combine_visits(const bf16* out, const std::int32_t* visit_of, const float* weights, const bf16* shared, bf16* y,
                    std::int64_t T, std::int64_t D, int active, Stream stream) {
    const bool whole_pieces = D % 8 == 0 && reinterpret_cast<std::uintptr_t>(y) % 16 == 0;
    whole_pieces ? combine<8>(out, visit_of, weights, shared, y, T, D, active, stream)
                 : combine<1>(out, visit_of, weights, shared, y, T, D, active, stream);
}

}  // namespace dsa
