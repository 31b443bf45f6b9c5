// Level 8. At most 32 heads, on wgmma: keys are the rows of the products and heads their columns (key_rows.cuh),
// where level 7 has mma.sync and levels 3 to 6 pad heads to 64.
#include "optimized/hopper/dependent.h"
#include "optimized/sparse_prefill/key_rows_products.cuh"
#include "optimized/sparse_prefill/op.h"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"
#include "optimized/support/multiprocessors.h"

namespace dsa {
namespace {

using namespace key_rows;

constexpr int most_heads = 32;

// More rows than this lie in memory and not in the L2 cache. For 8 heads they come sooner where fewer are asked for
// at once, though that takes more clocks: notes.md.
#if defined(DSA_SIMULATOR)
constexpr std::int64_t rows_of_l2 = 100;  // small cases shall be of both kinds
#else
constexpr std::int64_t rows_of_l2 = 64 << 10;
#endif

template <int heads, int places>
__global__ void __launch_bounds__(threads, 1)
    attend_keys(Queries queries, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap out) {
    let_next_kernel_start();  // of level 9, say
    auto& memory = shared<Memory<heads, places>>();
    prepare(memory);
    const int role = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warpgroup, 0);
    if (role == gathers) {
        give_back_registers<of_a_gatherer>();
        gather(memory, queries);
    } else if (role == selects) {
        give_back_registers<of_a_selector>();
        select(memory, queries, q);
    } else if (role == scores) {
        take_registers<of_a_scorer>();
        score(memory, queries);
    } else {
        take_registers<of_a_weigher>();
        weigh(memory, queries, out);
    }
}

template <int heads, int places = 7>
void attend_with(const SparsePrefill& call) {
    const Queries queries{call.q,
                          call.kv,
                          call.indices,
                          call.result,
                          call.S,
                          static_cast<int>(call.T),
                          static_cast<int>(call.H),
                          static_cast<int>(call.k)};
    static_assert(sizeof(Memory<heads, places>) <= 227 << 10, "what a block can have");
    launch("sparse_prefill_keys", attend_keys<heads, places>,
           {.blocks = std::min<std::int64_t>(call.T, multiprocessors),
            .threads = threads,
            .shared_bytes = sizeof(Memory<heads, places>),
            .stream = call.stream},
           queries, matrix_map("q", call.q, call.T * call.H, d, d, heads, panel_columns, wide),
           latent_tile::heads_map("out", call.result.out, call.T, call.H, heads));
}

}  // namespace

std::string sparse_prefill_level_8_declines(const SparsePrefill& call) {
    if (call.H > most_heads) return sentence("it is for at most ", most_heads, " heads; there are ", call.H);
    if (call.d != d || call.d_v != d_v)
        return sentence("a latent has ", d, " numbers, of which ", d_v, " are the value; here ", call.d, " and ",
                        call.d_v);
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    if (call.T * (call.H + most_heads) > most)
        return sentence("T (H + ", most_heads, ") must be below 2^31; T and H are ", call.T, " and ", call.H);
    if (!(call.result.scale > 0)) return sentence("the scale must be positive; it is ", call.result.scale);
    if (call.S > most) return sentence("S must be below 2^31; it is ", call.S);
    if (call.k > most_slots) return sentence("k must be at most ", most_slots, "; it is ", call.k);
    return {};
}

void sparse_prefill_level_8(const SparsePrefill& call) {
    if (call.T == 0 || call.H == 0) return;
    const auto attend = call.H > 16            ? attend_with<32>
                        : call.H > 8           ? attend_with<16>
                        : call.S <= rows_of_l2 ? attend_with<8>
                                               : attend_with<8, 6>;
    attend(call);
}

}  // namespace dsa
