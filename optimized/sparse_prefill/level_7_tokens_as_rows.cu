// Level 7. At most 16 heads, and no rows computed for heads that are not there: tokens are the rows of the products,
// heads their columns (attention/few_heads.cuh). What bounds it is the gather, 1152 bytes a slot whatever H is: a
// warp keeps five tiles of 32 rows under way by bulk copies, over the end of one query into the next, while eight
// warps compute. Which slots count they find themselves, while the first rows of the query come.
#include "optimized/attention/distinct.cuh"
#include "optimized/attention/few_heads.cuh"
#include "optimized/attention/row_ring.cuh"
#include "optimized/hopper/registers.h"
#include "optimized/sparse_prefill/work.cuh"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using namespace few_heads;

constexpr int row_bytes = width * 2;
constexpr int stages = 5;
constexpr int most_heads = 16;  // 32 took longer than padding them to 64: notes.md
using Ring = RowRing<stages, row_bytes, row_bytes + 16, carriers>;

using Selection = DistinctSlots<worker_threads, most_slots, 12>;

template <int heads>
struct Memory {
    Ring ring;
    union {
        typename Selection::Table table;  // before an item's first tile
        Exchange<heads> exchange;
    };
    Selection selection;
    float one_over[heads];  // at an item's end
};

struct Queries {
    const bf16* q;                // [T, H, width]
    const bf16* kv;               // [S, width]
    const std::int32_t* indices;  // [T, k]
    AttentionResult result;
    std::int64_t S;
    int T, H, k;
    __device__ int tiles() const { return max(1, (k + tokens - 1) / tokens); }
};

// One of the four warps, a slot a lane.
__device__ void bring(Ring& ring, const Queries& queries, int carrier) {
    const int tiles = queries.tiles();
    RingTurn<stages> turn;
    for (int t = static_cast<int>(blockIdx.x); t < queries.T; t += static_cast<int>(gridDim.x)) {
        const std::int32_t* row = queries.indices + std::int64_t{t} * queries.k;
        const auto index = [&](int tile) {
            const int slot = tile * tokens + carrier * Ring::rows_each + lane_id() % Ring::rows_each;
            return slot < queries.k ? row[slot] : -1;
        };
        std::int32_t next = index(0);
        for (int tile = 0; tile < tiles; ++tile) {
            const std::int32_t now = next;
            next = index(tile + 1);
            bring_rows<true>(ring, turn, carrier, queries.kv, queries.S, now);
        }
    }
}

// Rows of the ring as they are: key and value.
template <int heads>
struct RowTiles {
    static constexpr int pitch = Ring::pitch;
    Ring& ring;
    const int offset = (16 * token_group() + lane_id() % 16) * pitch + quarter() * 32 + lane_id() / 16 * 16;
    QueryPart<heads> q;
    RingTurn<stages> scoring, weighing;
    const unsigned char* row = nullptr;  // where this lane begins to read keys as A

    __device__ explicit RowTiles(Ring& of) : ring(of) {}
    // q: [count, width]
    __device__ void load_query(const bf16* rows, int count) {
#pragma unroll
        for (int step = 0; step < steps; ++step)
#pragma unroll
            for (int n = 0; n < heads / 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int head = 8 * n + group(), column = 64 * step + 16 * quarter() + 8 * i + 2 * place();
                    q[step][n][i] =
                        head < count ? *reinterpret_cast<const std::uint32_t*>(rows + head * width + column) : 0;
                }
    }
    __device__ void begin() {
        mbarrier_wait_in_block(ring.full[scoring.at], scoring.parity);
        row = ring.tile[scoring.at] + offset;
    }
    __device__ void keys(std::uint32_t (&a)[4], int step) const { load_matrices(a, row + step * 128); }
    __device__ void scored() { scoring.next(); }
    __device__ const unsigned char* values() const { return ring.tile[weighing.at]; }
    __device__ void weighed() {
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(ring.empty[weighing.at]);
        weighing.next();
    }
};

template <int heads>
__global__ void __launch_bounds__(threads, 1) attend_queries(Queries queries) {
    auto& memory = shared<Memory<heads>>();
    Exchange<heads>& exchange = memory.exchange;
    const AttentionResult& result = queries.result;
    if (threadIdx.x == 0) memory.ring.init(workers);
    __syncthreads();
    if (warp_id() >= workers) {
        give_back_registers<carrier_registers>();
        bring(memory.ring, queries, warp_id() - workers);
        return;
    }
    take_registers<worker_registers>();
    RowTiles<heads> tiles(memory.ring);
    const auto thread = static_cast<int>(threadIdx.x);
    for (int t = static_cast<int>(blockIdx.x); t < queries.T; t += static_cast<int>(gridDim.x)) {
        const std::int64_t first = std::int64_t{t} * queries.H;
        tiles.load_query(queries.q + first * width, queries.H);
        memory.selection.find(memory.table, queries.indices + std::int64_t{t} * queries.k, queries.k, queries.S,
                              thread, workers_barrier);
        RunningSoftmax<heads> softmax;
        Outputs<heads> out;
        Walk<heads, RowTiles<heads>>{exchange, tiles, memory.selection.counts, result.scale * log2_e, softmax, out}
            .run(queries.tiles());
        softmax.conclude([&](int head, float reference, float largest, float sum) {
            const bool empty = reference == minus_infinity();
            memory.one_over[head] = 0.0F;
            if (head >= queries.H) return;
            if (!empty) memory.one_over[head] = 1.0F / denominator(result, head, reference, sum);
            result.lse[first + head] = told_lse(result, reference, sum);
            if (result.max_logit != nullptr) result.max_logit[first + head] = largest;
        });
        workers_meet();
        store_rows(exchange, memory.one_over, out, queries.H, result.out + first * latent,
                   [](const Piece& eight) { return eight; });
        workers_meet();
    }
}

template <int heads>
void attend_with(const SparsePrefill& call, const Queries& queries) {
    launch("sparse_prefill_few_heads", attend_queries<heads>,
           {.blocks = std::min<std::int64_t>(call.T, multiprocessors),
            .threads = threads,
            .shared_bytes = sizeof(Memory<heads>),
            .stream = call.stream},
           queries);
}

}  // namespace

std::string sparse_prefill_level_7_declines(const SparsePrefill& call) {
    if (call.H > most_heads) return sentence("it is for at most ", most_heads, " heads; there are ", call.H);
    if (call.d != width || call.d_v != latent)
        return sentence("a latent has ", width, " numbers, of which ", latent, " are the value; here ", call.d,
                        " and ", call.d_v);
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    if (call.T > most || call.S > most)
        return sentence("T and S must be below 2^31; they are ", call.T, " and ", call.S);
    if (call.k > most_slots) return sentence("k must be at most ", most_slots, "; it is ", call.k);
    return {};
}

void sparse_prefill_level_7(const SparsePrefill& call) {
    const Queries queries{call.q,
                          call.kv,
                          call.indices,
                          call.result,
                          call.S,
                          static_cast<int>(call.T),
                          static_cast<int>(call.H),
                          static_cast<int>(call.k)};
    if (call.H <= 8)
        attend_with<8>(call, queries);
    else
        attend_with<16>(call, queries);
}

}  // namespace dsa
