// Level 4. Bound: bytes, 3 a number: 2 read, 1 written. One launch takes queries and keys from their products to what
// is scored: LayerNorm, rope, Hadamard, e4m3. A warp takes 8 vectors at a time, and the transform is a product on the
// tensor cores; at level 2, 20 of 29 shuffles a vector were its rounds. A warp knows its own tokens' turns and meets
// no barrier; the next 8 vectors are on their way while these are worked on.
#include "optimized/hadamard/on_tensor_cores.cuh"
#include "optimized/hopper/bytes.h"
#include "optimized/hopper/dependent.h"
#include "optimized/indexer_project/eight_vectors.cuh"
#include "optimized/indexer_project/op.h"
#include "optimized/support/launch.h"
#include "optimized/support/quantize.cuh"
#include "optimized/support/quotient.cuh"

namespace dsa {
namespace {

constexpr int warps = 8;
constexpr int batch = mma_columns;  // vectors
constexpr int most_pairs = 32;
constexpr int page = 64;                    // keys
constexpr int blocks_a_multiprocessor = 2;  // 128 registers a thread; with 80 and three blocks it is slower
constexpr int warps_a_multiprocessor = 24;  // that a call of few vectors is spread over
constexpr int most_batches = 9;      // at T = 4096 and 64 heads that makes two waves of blocks, not a little more
constexpr int most_key_batches = 4;  // of eight tokens each, whose turns a warp makes one after another
#if defined(DSA_SIMULATOR)
constexpr int multiprocessors = 1;  // small cases shall give a warp several batches too
#else
constexpr int multiprocessors = 132;
#endif

struct Pass {
    IndexerProject call;
    const bf16* q;     // [T, H_I, D_I], as the product leaves it
    const bf16* k;     // [T, D_I]
    int key_blocks;    // they come first: theirs is more work
    int key_batches;   // a warp
    int warp_batches;  // of queries, a warp
};

struct Turns {
    Turn of[batch][most_pairs];  // [token, pair]
};
struct Shared {
    Turns turns[warps];
};

// Where a batch begins, counted in tokens and heads.
struct Place {
    int token, head;
    // Tokens from this one to that of vector i of the batch, which may be past the last.
    __device__ int tokens_to(int i, int N, int T) const {
        const int on = N >= batch ? (head + i >= N ? 1 : 0) : (head + i) / N;
        return min(on, T - 1 - token);
    }
    __device__ void next_batch(int N) {
        head += batch;
        for (; head >= N; head -= N) ++token;
    }
};

// A warp's turns, of the tokens first to last.
struct Turned {
    int first = -1, last = -1;
};
// Not inline: the sines' registers are not all of the kernel's.
__device__ __attribute__((noinline)) void make_turns(Turns& turns, const IndexerProject& call, int first, int last) {
    __syncwarp();  // those that are there were read
    for (int token = first; token <= last; ++token)
        if (lane_id() < call.rope.pairs)
            turns.of[token - first][lane_id()] = turn_of(call.positions[token], call.rope.frequency[lane_id()]);
    __syncwarp();
}

// 16 bits of magnitude a vector -> the largest of vector 2 t in the low half, of 2 t + 1 in the high one
template <int words>
__device__ std::uint32_t largest_of_both(const std::uint32_t (&pairs)[2][words]) {
    std::uint32_t largest[2] = {};
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
        for (int i = 0; i < words; ++i) largest[c] = larger_pair(largest[c], magnitudes(pairs[c][i]));
    std::uint32_t both =
        larger_pair(pick_bytes(largest[0], largest[1], 0x5410), pick_bytes(largest[0], largest[1], 0x7632));
#pragma unroll
    for (int flip = 4; flip < warp_size; flip *= 2) both = larger_pair(both, __shfl_xor_sync(all_lanes, both, flip));
    return both;
}

template <int own>
struct alignas(own) Bytes {
    std::uint32_t words[own / 4];
};
template <int own, bool powers>
__device__ Bytes<own> quantised(const std::uint32_t (&pairs)[own / 2], const Divisor<powers>& over) {
    Bytes<own> bytes;
#pragma unroll
    for (int i = 0; i < own / 4; ++i) {
        const std::uint32_t low = pairs[2 * i], high = pairs[2 * i + 1];
        bytes.words[i] = to_e4m3_four(over(first_of_pair(low)), over(second_of_pair(low)),  //
                                      over(first_of_pair(high)), over(second_of_pair(high)));
    }
    return bytes;
}

// Where a key and its scale are written: rows of their own, or the token's slot in pages [64 keys, then 64 scales].
template <int D_I>
__device__ e4m3* place_of_key(const IndexerProject& call, int token, float*& scale) {
    if (call.key_pages == nullptr) {
        scale = call.k_scale + token;
        return call.k + std::int64_t{token} * D_I;
    }
    constexpr std::int64_t page_bytes = page * (D_I + sizeof(float));
    const int slot = call.key_slots[token];
    std::uint8_t* bytes = call.key_pages + slot / page * page_bytes;
    scale = reinterpret_cast<float*>(bytes + page * D_I) + slot % page;
    return reinterpret_cast<e4m3*>(bytes + slot % page * D_I);
}

// A vector's scale, and what its numbers are divided by.
template <bool powers>
__device__ Divisor<powers> divisor_of(const IndexerProject& call, float largest, float& scale) {
    if constexpr (powers) {
        if (call.quantizer == Quantizer::deepseek && largest < __uint_as_float(0x7f800000U)) {
            scale = power_of_two_above_448th(fmaxf(largest, 1e-4F));
            return Divisor<true>(scale);
        }
    }
    scale = block_scale(largest, call.quantizer, call.ue8m0);
    return Divisor<powers>(scale);
}

// Vectors `first` to `first` + 8 `batches` - 1, as far as there are such.
template <int D_I, bool keys, bool powers>
__device__ void take_vectors(const Pass& pass, Turns& turns, int first, int batches) {
    constexpr int pieces = D_I / 32, own = D_I / 8;
    const IndexerProject& call = pass.call;
    const int T = static_cast<int>(call.T), N = keys ? 1 : static_cast<int>(call.H_I), count = T * N;
    if (first >= count) return;
    const int end = min(count, first + batches * batch);
    const int g = mma_row(lane_id()), t = lane_id() % 4;
    // The vector whose scale a lane keeps; lanes past the first 8 keep none.
    const int kept = lane_id() < batch ? 2 * t + g : count;
    const bf16* x = keys ? pass.k : pass.q;
    Place place{first / N, first % N};
    Turned turned;
    const auto turn_these = [&] {
        const int last = place.token + place.tokens_to(batch - 1, N, T);
        if (turned.first == place.token && turned.last == last) return;
        make_turns(turns, call, place.token, last);
        turned = {place.token, last};
    };
    std::uint32_t words[pieces][4];
    float weight = 0.0F;
    const auto load = [&](int v) {
        load_pieces(words, x + std::int64_t{min(v + g, count - 1)} * D_I);  // the last again where there is none
        if (!keys && v + kept < count) weight = call.weights[v + kept];
    };
    if (batches == 1) turn_these();
    wait_for_previous_kernel();
    load(first);
    for (int v = first; v < end; v += batch, place.next_batch(N)) {
        turn_these();
        if constexpr (keys) normalise(words, call.k_norm, call.k_bias, call.eps);
        turn(words, turns.of[place.tokens_to(g, N, T)], call.rope.pairs, call.layout);
        float y[2][own];
        hadamard_on_tensor_cores<D_I>(words, y);
        const float its_weight = weight;
        if (v + batch < end) load(v + batch);  // on their way while these are quantised
        std::uint32_t rounded[2][own / 2];
#pragma unroll
        for (int c = 0; c < 2; ++c)
#pragma unroll
            for (int i = 0; i < own / 2; ++i) rounded[c][i] = to_bf16_pair(y[c][2 * i], y[c][2 * i + 1]);
        const std::uint32_t largest = largest_of_both(rounded);
        float scale[2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const auto over =
                divisor_of<powers>(call, c == 0 ? first_of_pair(largest) : second_of_pair(largest), scale[c]);
            const Bytes<own> bytes = quantised<own>(rounded[c], over);
            const int mine = v + 2 * t + c;
            if (mine >= count) continue;
            float* kept_scale = nullptr;
            e4m3* to = keys ? place_of_key<D_I>(call, mine, kept_scale) : call.q + std::int64_t{mine} * D_I;
            reinterpret_cast<Bytes<own>*>(to)[g] = bytes;
            if (keys && g == 0) *kept_scale = scale[c];
        }
        if (!keys && v + kept < count) {
            const float its = g == 0 ? scale[0] : scale[1];
            if (call.q_scale != nullptr) call.q_scale[v + kept] = its;
            call.weights[v + kept] = (call.weights_bf16 ? through_bf16(its_weight) : its_weight) * call.factor * its;
        }
    }
}

// powers: scales are powers of two (ue8m0)
template <int D_I, bool powers>
__global__ void __launch_bounds__(warps* warp_size, blocks_a_multiprocessor)
    indexer_one_pass(const __grid_constant__ Pass pass) {
    Turns& turns = shared<Shared>().turns[warp_id()];
    const int block = static_cast<int>(blockIdx.x);
    if (block < pass.key_blocks) {
        take_vectors<D_I, true, powers>(pass, turns, (block * warps + warp_id()) * pass.key_batches * batch,
                                        pass.key_batches);
    } else {
        const int warp = (block - pass.key_blocks) * warps + warp_id();
        take_vectors<D_I, false, powers>(pass, turns, warp * pass.warp_batches * batch, pass.warp_batches);
    }
}

}  // namespace

std::string indexer_one_pass_declines(const IndexerProject& call) {
    if (call.D_I != 64 && call.D_I != 128) return sentence("vectors must be of 64 or 128 numbers; D_I is ", call.D_I);
    if (!call.hadamard || call.quantizer == Quantizer::none)
        return "it transforms and quantises: the conventions must have hadamard and a quantizer";
    if (const int pairs = call.rope.pairs; pairs != 8 && pairs != 16 && pairs != 32)
        return sentence("the rotated size must be 16, 32 or 64; it is ", 2 * pairs);
    if (call.T * call.H_I > INT32_MAX / 2)
        return sentence("there may be at most 2^30 vectors; T is ", call.T, ", H_I ", call.H_I);
    return {};
}

void indexer_one_pass(const IndexerProject& call, const bf16* q, const bf16* k) {
    const std::int64_t queries = call.T * call.H_I;
    // A warp that stays need not make a token's turns again, and loads ahead; but few vectors want many warps.
    const auto at_once = std::int64_t{multiprocessors} * warps_a_multiprocessor * batch;
    const auto warp_batches =
        static_cast<int>(min(std::int64_t{most_batches}, max((queries + at_once - 1) / at_once, std::int64_t{1})));
    const int key_batches = min(most_key_batches, max(warp_batches / 2, 1));
    const std::int64_t key_blocks = blocks_for(call.T, std::int64_t{warps} * batch * key_batches);
    const Launch how{.blocks = key_blocks + blocks_for(queries, std::int64_t{warps} * batch * warp_batches),
                     .threads = warps * warp_size,
                     .shared_bytes = sizeof(Shared),
                     .stream = call.stream,
                     .overlaps_previous = true};
    const Pass pass{call, q, k, static_cast<int>(key_blocks), key_batches, warp_batches};
    if (call.D_I == 64 && call.ue8m0) launch("indexer_one_pass", indexer_one_pass<64, true>, how, pass);
    if (call.D_I == 64 && !call.ue8m0) launch("indexer_one_pass", indexer_one_pass<64, false>, how, pass);
    if (call.D_I == 128 && call.ue8m0) launch("indexer_one_pass", indexer_one_pass<128, true>, how, pass);
    if (call.D_I == 128 && !call.ue8m0) launch("indexer_one_pass", indexer_one_pass<128, false>, how, pass);
}

}  // namespace dsa
