#include "optimized/attention/selected.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads)
    keep_by_comparing(const std::int32_t* indices, std::int32_t* kept, std::int64_t k, std::int64_t S) {
    const std::int32_t* row = indices + blockIdx.x * k;  // [k]
    for (std::int64_t i = threadIdx.x; i < k; i += threads) {
        const std::int32_t s = row[i];
        bool counts = s >= 0 && s < S;
        for (std::int64_t j = 0; counts && j < i; ++j) counts = row[j] != s;
        kept[blockIdx.x * k + i] = counts ? s : -1;
    }
}

constexpr std::int32_t nobody = 0x7fffffff;
constexpr std::int32_t most_places = 1 << 15;  // 128 KiB

// A table of `places` slots, open addressing. A place belongs to the index that took it first, and ends with the
// lowest slot that has that index: which place an index gets may differ from run to run, the slot that it ends with
// cannot.
__global__ void __launch_bounds__(threads) keep_by_table(const std::int32_t* indices, std::int32_t* kept,
                                                         std::int32_t k, std::int64_t S, std::int32_t places) {
    std::int32_t* table = &shared<std::int32_t>();                     // [places]
    const std::int32_t* row = indices + blockIdx.x * std::int64_t{k};  // [k]
    const auto first_place = [places](std::int32_t s) {
        constexpr std::uint32_t golden_ratio = 0x9e3779b9U;  // 2^32 / 1.618...: neighbours fall far apart
        return static_cast<std::int32_t>((static_cast<std::uint32_t>(s) * golden_ratio) >> 8U) & (places - 1);
    };
    for (std::int32_t i = threadIdx.x; i < places; i += threads) table[i] = nobody;
    __syncthreads();
    for (std::int32_t i = threadIdx.x; i < k; i += threads) {
        const std::int32_t s = row[i];
        if (s < 0 || s >= S) continue;
        for (std::int32_t at = first_place(s);; at = (at + 1) & (places - 1)) {
            const std::int32_t there = atomicCAS(&table[at], nobody, i);
            if (there != nobody && row[there] != s) continue;
            if (there != nobody) atomicMin(&table[at], i);
            break;
        }
    }
    __syncthreads();
    for (std::int32_t i = threadIdx.x; i < k; i += threads) {
        const std::int32_t s = row[i];
        bool counts = s >= 0 && s < S;
        if (counts) {
            std::int32_t at = first_place(s);
            while (row[table[at]] != s) at = (at + 1) & (places - 1);
            counts = table[at] == i;
        }
        kept[blockIdx.x * std::int64_t{k} + i] = counts ? s : -1;
    }
}

}  // namespace

void keep_selected_by_comparing(const std::int32_t* indices, std::int32_t* kept, std::int64_t rows, std::int64_t k,
                                std::int64_t S, Stream stream) {
    launch("keep_by_comparing", keep_by_comparing, {.blocks = k > 0 ? rows : 0, .threads = threads, .stream = stream},
           indices, kept, k, S);
}

void keep_selected(const std::int32_t* indices, std::int32_t* kept, std::int64_t rows, std::int64_t k, std::int64_t S,
                   Stream stream) {
    if (2 * k > most_places) return keep_selected_by_comparing(indices, kept, rows, k, S, stream);
    std::int32_t places = 64;
    while (places < 2 * k) places *= 2;
    launch("keep_by_table", keep_by_table,
           {.blocks = k > 0 ? rows : 0,
            .threads = threads,
            .shared_bytes = places * sizeof(std::int32_t),
            .stream = stream},
           indices, kept, static_cast<std::int32_t>(k), S, places);
}

}  // namespace dsa
