// What levels 4 and up are made of: a block has 64 rows of q, heads of one query, and walks over tiles of 64 selected
// tokens. Three warpgroups:
//
//   the producer     reads tokens of the FP8 cache into registers, makes bf16 of them and stores them as wgmma reads
//                    them: panels of 64 columns, a token a row of 128 bytes, swizzled. q k^T reads such a panel
//                    K-major, p v the same bytes MN-major.
//   the first        s = q k^T, the running softmax, p to shared memory, and out's first 256 columns
//   the second       out's last 256 columns
//
//     tensor cores   q k^T (i + 1)   p v (i), both halves   q k^T (i + 2)  ...
//     the first      wait            softmax (i + 1)        wait
//     the producer   tile i + 2, half by half, as the places of tile i become free
//
// Two tiles are in shared memory, each in two halves: the columns that the first and the second warpgroup weigh (and
// the rotated columns with the first). So half a tile can be scored, or its place be filled again, before the other.
#pragma once

#include "optimized/attention/softmax.cuh"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/mbarrier.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/wgmma.h"
#include "optimized/sparse_decode/dequantise.cuh"
#include "optimized/sparse_decode/op.h"
#include "optimized/sparse_decode/token.cuh"

namespace dsa::cached_tiles {

constexpr int warpgroup = 128;
constexpr int threads = 3 * warpgroup;
constexpr int rows = 64;    // of q: wgmma's M
constexpr int tokens = 64;  // of a tile
constexpr int panel = 64;   // columns: 128 bytes, as wide as the swizzle
constexpr int panels = width / panel, rotated_panel = latent / panel;
constexpr int half_panels = rotated_panel / 2;
constexpr int half_columns = latent / 2;
constexpr int panel_bytes = 64 * 128;
constexpr int stages = 2;
constexpr int most_tiles = 32;  // of a block: a bit a slot in shared memory
constexpr Swizzle wide = Swizzle::bytes_128;
// 3 x 168 registers a lane of all warpgroups together, as many as 65536 are enough for, shared out again.
constexpr int consumer_registers = 208, producer_registers = 88;
enum NamedBarrier { all_threads, of_the_first, of_consumers, unused, of_the_second };

struct Tile {
    unsigned char panel[panels][panel_bytes];
};

struct Memory {
    alignas(1024) Tile q;
    alignas(1024) Tile keys[stages];
    alignas(1024) unsigned char p[panel_bytes];
    std::uint32_t counts[2 * most_tiles];  // a bit a slot: does it count?
    float rescaling[rows];                 // of the last tile: by what older sums are multiplied
    float maximum[rows], sum[rows];        // at the end
    Mbarrier full[stages][2], empty[stages][2];
    Mbarrier counts_known, p_full, p_empty;
};

// What a block does: its rows of q, and its tiles of their selection.
struct Work {
    std::int64_t query;     // of B s_q
    int first_head, heads;  // the block's heads of the query; rows past them are zeros
    int first_slot, slots;  // of the query's k
    __device__ int tiles() const { return max(1, (slots + tokens - 1) / tokens); }
};

// blocks: that share what they convert, of a cluster.
template <int blocks>
__device__ void init_barriers(Memory& memory) {
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages; ++s)
            for (int half = 0; half < 2; ++half) {
                mbarrier_init(memory.full[s][half], 4);            // the producer's warps
                mbarrier_init(memory.empty[s][half], 4 * blocks);  // the warps that weigh this half
            }
        mbarrier_init(memory.counts_known, 4 * blocks);
        mbarrier_init(memory.p_full, 4);
        mbarrier_init(memory.p_empty, 4);
        fence_mbarrier_init();
    }
}

__device__ inline Words& piece_of(unsigned char* of, int row, int piece) {
    return *reinterpret_cast<Words*>(of + row * 128 + ((piece ^ (row & 7)) << 4));
}

// The first consumer: the block's rows of q, in the order of columns that keys have.
__device__ inline void bring_q(Memory& memory, const bf16* q, std::int64_t H, const Work& work) {
    constexpr int pieces = width / 8, each = 18, bunches = rows * pieces / (each * warpgroup);
    static_assert(each * bunches * warpgroup == rows * pieces, "every thread has as many");
    const bf16* first = q + (work.query * H + work.first_head) * width;
    const int thread = static_cast<int>(threadIdx.x) % warpgroup;
#pragma unroll 1
    for (int bunch = 0; bunch < bunches; ++bunch) {
        Words numbers[each];  // all on their way at once
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int i = thread + (bunch * each + j) * warpgroup, row = i / pieces, piece = i % pieces;
            numbers[j] =
                row < work.heads ? *reinterpret_cast<const Words*>(first + row * width + piece * 8) : Words{};
        }
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int i = thread + (bunch * each + j) * warpgroup, row = i / pieces, piece = i % pieces;
            piece_of(memory.q.panel[piece / 8], row, piece % 8) =
                piece < latent / 8 ? in_column_order(numbers[j]) : numbers[j];
        }
    }
    fence_proxy_async_shared();
    barrier_sync(of_the_first, warpgroup);
}

// ---- the producer ----

// One of its four warps has tokens 16 w ... 16 w + 15 of each tile. Lane 4 t + c has piece c of each panel of tokens
// t and t + 8: 8 lanes store to 8 different places of 16 bytes, whose banks differ.
template <class Slots>
struct Reader {
    Memory& memory;
    const std::uint8_t* pages;
    const Work work;
    const Slots slots;  // slots(i): the i-th of the block's part of the selection, -1 where it is none
    const int piece = lane_id() % 4;
    const int row = warp_id() % 4 * 16 + lane_id() / 4;  // and row + 8
    const int at = row * 128 + ((2 * piece ^ (row & 7)) << 4);

    // The place of half a tile is free. The second half of the second stage holds the selection's table at first, in
    // every block that is written into. The other block's warps arrive at `empty` too, but nothing that they wrote is
    // read afterwards: the wait does not acquire at the cluster's scope.
    __device__ void wait_for_place(int tile, int half) const {
        if (tile == 1 && half == 1) mbarrier_wait_in_block(memory.counts_known, 0);
        mbarrier_wait_in_block(memory.empty[tile % stages][half], tile / stages % 2 ^ 1);
    }
    __device__ std::int32_t slot(int tile, int o) const {
        const int i = tile * tokens + row + 8 * o;
        return i < work.slots ? slots(i) : -1;
    }
    // Where the token is; null where zeros stand for it.
    __device__ const std::uint8_t* find(std::int32_t slot) const {
        return slot < 0 ? nullptr : pages + static_cast<std::int64_t>(slot) * token_bytes;
    }
    __device__ Words codes(const std::uint8_t* token, int p) const {
        return token == nullptr ? Words{} : *reinterpret_cast<const Words*>(token + p * panel + piece * 16);
    }
    __device__ static float scale(const std::uint8_t* token, int block) {
        return token == nullptr ? 1.0F : reinterpret_cast<const float*>(token + latent)[block];
    }
    __device__ void store(unsigned char* to, int o, const Words (&numbers)[2]) const {
        *reinterpret_cast<Words*>(to + at + o * 8 * 128) = numbers[0];
        *reinterpret_cast<Words*>(to + (at ^ 16) + o * 8 * 128) = numbers[1];
    }
    // The rotated columns are bf16 already.
    __device__ void copy_rotated(const std::uint8_t* token, unsigned char* to, int o) const {
        const std::uint8_t* from = token == nullptr ? pages : token + latent + 4 * (latent / scaled) + 32 * piece;
        const int bytes = token == nullptr ? 0 : 16;
        cp_async<16>(to + at + o * 8 * 128, from, bytes);
        cp_async<16>(to + (at ^ 16) + o * 8 * 128, from + bytes, bytes);
    }
    __device__ static void load_rotated_of(const std::uint8_t* from, Words (&to)[2]) {
#pragma unroll
        for (int j = 0; j < 2; ++j) to[j] = reinterpret_cast<const Words*>(from)[j];
    }
    __device__ void load_rotated(const std::uint8_t* token, Words (&to)[2]) const {
        to[0] = to[1] = Words{};
        if (token != nullptr) load_rotated_of(token + latent + 4 * (latent / scaled) + 32 * piece, to);
    }
    // Once more, the long road, where there was a NaN or another kind of scale.
    __device__ void mend(int tile, int half, int first_o, int last_o) const {
#pragma unroll 1
        for (int i = first_o * half_panels; i < (last_o + 1) * half_panels; ++i) {
            const int o = i / half_panels, p = half * half_panels + i % half_panels;
            const std::uint8_t* of = find(slot(tile, o));
            Words numbers[2];
            dequantise_one_by_one(codes(of, p), scale(of, p / 2), numbers);
            store(memory.keys[tile % stages].panel[p], o, numbers);
        }
    }
};

// Makes whole tiles; what it loads is half a tile ahead.
template <class Slots>
struct Producer {
    const Reader<Slots> reader;
    const std::uint8_t* token[2] = {};  // of the half tile that is loaded
    std::int32_t following[2] = {};     // slots of the tile after the one that is made
    Words codes[2][half_panels] = {};   // as they are in the cache
    float scales[2][2] = {};

    __device__ void load_scales(int half, int o) {
#pragma unroll
        for (int j = 0; j < 2; ++j) scales[o][j] = reader.scale(token[o], 2 * half + j);
    }
    template <int half>
    __device__ void make(int tile) {
        const int stage = tile % stages;
        Tile& keys = reader.memory.keys[stage];
        reader.wait_for_place(tile, half);
        std::uint32_t trouble = 0;
#pragma unroll
        for (int o = 0; o < 2; ++o) {
            if (half == 0) reader.copy_rotated(token[o], keys.panel[rotated_panel], o);
            const std::uint32_t pairs[2] = {scale_for_pairs(scales[o][0]), scale_for_pairs(scales[o][1])};
            if (pairs[0] == 0 || pairs[1] == 0) trouble = nan_bits;
            if (half == 1) {
                token[o] = reader.find(following[o]);
                following[o] = reader.slot(tile + 2, o);
            }
            load_scales(half ^ 1, o);
#pragma unroll
            for (int j = 0; j < half_panels; ++j) {
                trouble |= nan_codes(codes[o][j]);
                Words numbers[2];
                dequantise(codes[o][j], pairs[j / 2], numbers);
                codes[o][j] = reader.codes(token[o], (half ^ 1) * half_panels + j);
                reader.store(keys.panel[half * half_panels + j], o, numbers);
                __syncwarp();  // the compiler would put all loads off to the end, where each is waited for at once
            }
        }
        if ((trouble & nan_bits) != 0) reader.mend(tile, half, 0, 1);
        if (half == 0) {
            cp_async_commit();
            cp_async_wait<0>();
        }
        fence_proxy_async_shared();
        warp_arrives(reader.memory.full[stage][half]);
    }
    __device__ void run() {
#pragma unroll
        for (int o = 0; o < 2; ++o) {
            token[o] = reader.find(reader.slot(0, o));
            following[o] = reader.slot(1, o);
            load_scales(0, o);
#pragma unroll
            for (int j = 0; j < half_panels; ++j) codes[o][j] = reader.codes(token[o], j);
        }
        for (int tile = 0; tile < reader.work.tiles(); ++tile) {
            make<0>(tile);
            make<1>(tile);
        }
    }
};

// Two blocks of a cluster, which have the same tokens, make half of each tile each and send it to the other: tokens
// 16 w ... 16 w + 7 the first, the next 8 the second. What it loads is a tile ahead.
template <class Slots>
struct SharingProducer {
    const Reader<Slots> reader;
    const int o = cluster_rank();
    const std::uint8_t* next = nullptr;  // the token of the next tile
    std::int32_t following = -1;         // slot of the tile after that
    Words codes[2][half_panels] = {};    // both halves of a tile
    Words turned[2] = {};                // the rotated columns
    float scales[4] = {};

    template <int half>
    __device__ void load() {
#pragma unroll
        for (int j = 0; j < 2; ++j) scales[2 * half + j] = reader.scale(next, 2 * half + j);
#pragma unroll
        for (int j = 0; j < half_panels; ++j) codes[half][j] = reader.codes(next, half * half_panels + j);
        if (half == 0) reader.load_rotated(next, turned);
    }
    template <int half>
    __device__ void make(int tile) {
        const int stage = tile % stages;
        Tile& keys = reader.memory.keys[stage];
        Mbarrier& full = reader.memory.full[stage][half];
        reader.wait_for_place(tile, half);
        const std::uint32_t pairs[2] = {scale_for_pairs(scales[2 * half]), scale_for_pairs(scales[2 * half + 1])};
        std::uint32_t trouble = pairs[0] == 0 || pairs[1] == 0 ? nan_bits : 0;
        Words numbers[2];
#pragma unroll
        for (int j = 0; j < half_panels; ++j) {
            trouble |= nan_codes(codes[half][j]);
            dequantise(codes[half][j], pairs[j / 2], numbers);
            reader.store(keys.panel[half * half_panels + j], o, numbers);
        }
        if (half == 0) reader.store(keys.panel[rotated_panel], o, turned);
        if ((trouble & nan_bits) != 0) reader.mend(tile, half, o, o);
        fence_proxy_async_shared();
        __syncwarp();
        constexpr int sent = half_panels + (half == 0 ? 1 : 0), bytes = 8 * 128;  // 8 tokens of a panel
        if (lane_id() == 0) mbarrier_arrive_expect(full, sent * bytes);           // what the other sends
        if (lane_id() < sent) {
            const int p = lane_id() == half_panels ? rotated_panel : half * half_panels + lane_id();
            unsigned char* mine = keys.panel[p] + (warp_id() % 4 * 16 + 8 * o) * 128;
            bulk_send(mine, mine, bytes, full, o ^ 1);
        }
    }
    __device__ void run() {
        next = reader.find(reader.slot(0, o));
        following = reader.slot(1, o);
        load<0>();
        load<1>();
        for (int tile = 0; tile < reader.work.tiles(); ++tile) {
            next = reader.find(following);
            following = reader.slot(tile + 2, o);
            make<0>(tile);
            make<1>(tile);
            load<0>();  // not earlier: the fences wait for what is on its way
            load<1>();
        }
    }
};

// ---- the consumers ----

// What the first warpgroup's lane knows of its two rows; logits are in base 2.
struct Softmax {
    float maximum[2], sum[2], rescaling[2];
};

__device__ inline void issue_scores(Memory& memory, float (&scores)[tokens / 2], int tile) {
    const int stage = tile % stages, parity = tile / stages % 2;
    Descriptor a = k_major(memory.q.panel, wide), b = k_major(memory.keys[stage].panel, wide);
    hold(a);
    hold(b);
    const auto of_panel = [&](int p, bool add) {
#pragma unroll
        for (int part = 0; part < panel / 16; ++part)
            wgmma<bf16>(scores, advanced(a, p * panel_bytes + 32 * part), advanced(b, p * panel_bytes + 32 * part),
                        add || part > 0);
    };
    mbarrier_wait_in_block(memory.full[stage][0], parity);
    hold(scores);
    wgmma_fence();
    of_panel(rotated_panel, false);
#pragma unroll
    for (int p = 0; p < half_panels; ++p) of_panel(p, true);
    mbarrier_wait_in_block(memory.full[stage][1], parity);
#pragma unroll
    for (int p = half_panels; p < rotated_panel; ++p) of_panel(p, true);
    wgmma_commit();
}

// One step of the running softmax. The maximum that sums are made under is raised only when it would be exceeded
// by more than 2^8: until then numbers above 1 do no harm, and the older sums stay as they are.
__device__ inline void soften(const Memory& memory, float (&scores)[tokens / 2], Softmax& softmax, int tile,
                              float scale) {
    const std::uint32_t counts[2] = {memory.counts[2 * tile], memory.counts[2 * tile + 1]};
    const int column = wgmma_column(static_cast<int>(threadIdx.x), 0);
#pragma unroll
    for (float& score : scores) score *= scale;
    if ((counts[0] & counts[1]) != 0xffffffffU) {
#pragma unroll
        for (int i = 0; i < tokens / 2; ++i)
            if ((counts[i / 16] >> (i / 4 % 4 * 8 + i % 2 + column) & 1) == 0) scores[i] = minus_infinity();
    }
    float largest[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
    for (int i = 0; i < tokens / 2; ++i) largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], scores[i]);
    float subtracted[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        largest[r] = fmaxf(largest[r], __shfl_xor_sync(all_lanes, largest[r], 1));
        largest[r] = fmaxf(largest[r], __shfl_xor_sync(all_lanes, largest[r], 2));
        constexpr float room = 8.0F;
        softmax.rescaling[r] = 1.0F;
        if (largest[r] > softmax.maximum[r] + room) {
            softmax.rescaling[r] = exp2_of(softmax.maximum[r] - largest[r]);
            softmax.maximum[r] = largest[r];
        }
        subtracted[r] = softmax.maximum[r] == minus_infinity() ? 0.0F : softmax.maximum[r];
        softmax.sum[r] *= softmax.rescaling[r];
    }
#pragma unroll
    for (int i = 0; i < tokens / 2; ++i) {
        scores[i] = exp2_of(scores[i] - subtracted[i / 2 % 2]);
        softmax.sum[i / 2 % 2] += scores[i];
    }
}

// p and the rescaling to shared memory, for both consumers.
__device__ inline void tell_p(Memory& memory, const float (&p)[tokens / 2], const Softmax& softmax) {
    const int thread = static_cast<int>(threadIdx.x), lane = lane_id();
    const int row = wgmma_row(thread, 0);
#pragma unroll
    for (int i = 0; i < tokens / 2; i += 2) {
        const int r = row + i / 2 % 2 * 8;
        *reinterpret_cast<std::uint32_t*>(memory.p + r * 128 + ((i / 4 ^ (r & 7)) << 4) + lane % 4 * 4) =
            to_bf16_pair(p[i], p[i + 1]);
    }
    if (lane % 4 == 0) {
        memory.rescaling[row] = softmax.rescaling[0];
        memory.rescaling[row + 8] = softmax.rescaling[1];
    }
    fence_proxy_async_shared();
}

__device__ inline void rescale(float (&out)[half_columns / 2], float up, float down) {
    if (!__any_sync(all_lanes, up != 1.0F || down != 1.0F)) return;
#pragma unroll
    for (int i = 0; i < half_columns / 2; ++i) out[i] *= i / 2 % 2 == 0 ? up : down;
}

__device__ inline void issue_weighing(Memory& memory, float (&out)[half_columns / 2], int tile, int half) {
    const Descriptor a = k_major(memory.p, wide);
    const Descriptor b = mn_major(memory.keys[tile % stages].panel[half * half_panels], panel_bytes, wide);
    hold(out);
    wgmma_fence();
#pragma unroll
    for (int part = 0; part < tokens / 16; ++part)
        wgmma<bf16, Form{.b_is_mn_major = true}>(out, advanced(a, 32 * part), advanced(b, 16 * 128 * part),
                                                 tile > 0 || part > 0);
    wgmma_commit();
}

// The first consumer. At the end maximum (of natural logits) and sum of its rows are in shared memory.
template <int blocks>
__device__ void score_and_weigh(Memory& memory, float (&out)[half_columns / 2], int tiles, float scale) {
    constexpr float log2_e = 1.44269504088896340736F, ln_2 = 0.69314718055994530942F;
    float scores[tokens / 2];
    Softmax softmax{{minus_infinity(), minus_infinity()}, {0.0F, 0.0F}, {1.0F, 1.0F}};
    issue_scores(memory, scores, 0);
    wgmma_wait<0>();
    hold(scores);
    mbarrier_wait_in_block(memory.counts_known, 0);
    soften(memory, scores, softmax, 0, scale * log2_e);
    const auto tell = [&](int tile) {
        if (tile > 0) mbarrier_wait_in_block(memory.p_empty, (tile - 1) % 2);
        tell_p(memory, scores, softmax);
        warp_arrives(memory.p_full);
        barrier_sync(of_the_first, warpgroup);
        rescale(out, softmax.rescaling[0], softmax.rescaling[1]);
    };
    const auto finish = [&](int tile) {
        wgmma_wait<0>();
        hold(out);
        release<blocks>(memory.empty[tile % stages][0]);
    };
    for (int tile = 0; tile + 1 < tiles; ++tile) {
        tell(tile);
        issue_weighing(memory, out, tile, 0);
        finish(tile);  // before the next tile is waited for: the producer needs this one's place
        issue_scores(memory, scores, tile + 1);
        wgmma_wait<0>();
        hold(scores);
        soften(memory, scores, softmax, tile + 1, scale * log2_e);
    }
    tell(tiles - 1);
    issue_weighing(memory, out, tiles - 1, 0);
    finish(tiles - 1);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float sum = softmax.sum[r];
        sum += __shfl_xor_sync(all_lanes, sum, 1);
        sum += __shfl_xor_sync(all_lanes, sum, 2);
        if (lane_id() % 4 != 0) continue;
        const int row = wgmma_row(static_cast<int>(threadIdx.x), 2 * r);
        memory.sum[row] = sum;
        // Where all logits are NaN there is no maximum; nor is the row empty.
        memory.maximum[row] = sum != sum ? sum : softmax.maximum[r] * ln_2;
    }
}

// The second consumer. meanwhile(tile): what it does while the tile is weighed.
template <int blocks, class Meanwhile>
__device__ void weigh(Memory& memory, float (&out)[half_columns / 2], int tiles, Meanwhile meanwhile) {
    const int row = wgmma_row(static_cast<int>(threadIdx.x), 0);
    for (int tile = 0; tile < tiles; ++tile) {
        mbarrier_wait_in_block(memory.p_full, tile % 2);
        rescale(out, memory.rescaling[row], memory.rescaling[row + 8]);
        issue_weighing(memory, out, tile, 1);
        meanwhile(tile);
        wgmma_wait<0>();
        hold(out);
        warp_arrives(memory.p_empty);
        release<blocks>(memory.empty[tile % stages][1]);
    }
}

// ---- the end ----

// One consumer's half of the block's rows goes to global memory by way of the tiles' place, row by row. make(row,
// first, second): what two neighbouring places become, a T. to: of row 0, rows `pitch` bytes apart.
template <class T, class Make>
__device__ void store_rows(Memory& memory, const float (&out)[half_columns / 2], int half, int count, char* to,
                           int pitch, Make make) {
    constexpr int bytes = half_columns / 2 * static_cast<int>(sizeof(T));
    constexpr int apart = bytes + 4 * static_cast<int>(sizeof(T));  // lanes of a store meet no bank twice
    static_assert(2 * rows * apart <= static_cast<int>(sizeof memory.keys), "both halves lie there");
    unsigned char* staged = memory.keys[0].panel[0] + half * rows * apart;
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int i = 0; i < half_columns / 2; i += 2) {
        const int row = wgmma_row(thread, i);
        *reinterpret_cast<T*>(staged + row * apart + wgmma_column(thread, i) / 2 * static_cast<int>(sizeof(T))) =
            make(row, out[i], out[i + 1]);
    }
    fence_proxy_async_shared();
    barrier_sync(of_the_first + 3 * half, warpgroup);
    const int row = thread % warpgroup;
    if (row < count) {
        bulk_store(to + row * static_cast<std::int64_t>(pitch) + half * bytes, staged + row * apart, bytes);
        bulk_commit();
        bulk_wait<0>();
    }
}

}  // namespace dsa::cached_tiles
