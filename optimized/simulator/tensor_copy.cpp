#include "optimized/simulator/tensor_copy.h"

#include <algorithm>

#include "optimized/simulator/swizzle.h"

namespace dsa::simulator {
namespace {

// The row of the tile with these outer coordinates: its address, or nullptr where it lies outside.
const std::byte* row_of(const Tiled& t, const int* at, const std::uint32_t (&in_box)[5]) {
    const auto* row = static_cast<const std::byte*>(t.address);
    for (int d = 1; d < t.rank; ++d) {
        const std::int64_t i = std::int64_t{at[d]} + in_box[d];
        if (i < 0 || i >= static_cast<std::int64_t>(t.extent[d])) return nullptr;
        row += i * static_cast<std::int64_t>(t.stride[d]);
    }
    return row;
}

// Runs from the tensor to shared memory: pieces of 16 bytes, of which a part may be outside. Where a row ends within
// a piece, a load fills the rest, and a store writes the whole piece: so does an H100, and what lies behind the row
// is gone unless it is padding (tests/optimized/conformance).
std::vector<Run> runs_of(const Tiled& t, const int* at, std::byte* tile, bool stores, const Block& block) {
    const std::int64_t size = bytes_of(t.element);
    const std::int64_t box_bytes = t.box[0] * size;
    const std::int64_t row_bytes = static_cast<std::int64_t>(t.extent[0]) * size;
    const std::int64_t first = at[0] * size;                // of the tile's row, in the tensor's row
    const std::uint16_t fill = t.nan_outside ? 0x7ff7 : 0;  // an H100's NaN, of bf16 and of float32
    std::vector<Run> runs;
    std::uint32_t in_box[5] = {};
    auto offset = static_cast<std::uint32_t>(tile - block.shared());
    std::uint64_t rows = 1;
    for (int d = 1; d < t.rank; ++d) rows *= t.box[d];
    for (std::uint64_t r = 0; r < rows; ++r) {
        const std::byte* row = row_of(t, at, in_box);
        for (std::int64_t piece = 0; piece < box_bytes; piece += 16, offset += 16) {
            std::byte* to = block.shared() + swizzled(offset, span_of(t.swizzle));
            // Of these 16 bytes, begin .. end lie inside.
            const std::int64_t begin = std::clamp<std::int64_t>(-(first + piece), 0, 16);
            std::int64_t end =
                row == nullptr ? begin : std::clamp(row_bytes - (first + piece), begin, std::int64_t{16});
            if (stores && end > begin) end = 16;
            if (begin > 0) runs.push_back({to, nullptr, static_cast<std::size_t>(begin), fill});
            if (end > begin)
                runs.push_back(
                    {to + begin, row + (first + piece + begin), static_cast<std::size_t>(end - begin), fill});
            if (end < 16) runs.push_back({to + end, nullptr, static_cast<std::size_t>(16 - end), fill});
        }
        for (int d = 1; d < t.rank && ++in_box[d] == t.box[d]; ++d) in_box[d] = 0;
    }
    return runs;
}

void check(const TensorMap& map, const int* at, int rank, const void* tile, const Origin& origin) {
    const Tiled& t = map.tiled;
    if (t.rank < 1 || t.rank > 5)
        fault(origin, "needs a tensor map: what tensor_map() made, as a __grid_constant__ parameter of the kernel");
    if (t.rank != rank)
        fault(origin, "gives " + std::to_string(rank) + " coordinates to the map of a tensor of " +
                          std::to_string(t.rank) + " dimensions");
    // An H100 answers with an illegal instruction, inside of the tensor and outside (tests/optimized/conformance).
    if (const std::int64_t first = std::int64_t{at[0]} * bytes_of(t.element); first % 16 != 0)
        fault(origin,
              "needs its innermost coordinate at a multiple of 16 bytes, not at byte " + std::to_string(first));
    if (reinterpret_cast<std::uintptr_t>(tile) % 128 != 0)
        fault(origin, "needs its tile at a multiple of 128 bytes of shared memory");
    if (!origin.thread->block->holds(tile, box_bytes(t)))
        fault(origin,
              "of a box of " + std::to_string(box_bytes(t)) + " bytes leads outside of the block's shared memory");
}

}  // namespace

void tensor_load(void* to, const TensorMap& map, const int* at, int rank, std::uint64_t* mbarrier, std::uint16_t mask,
                 Where where) {
    const Origin origin{&this_thread(), mask == 0 ? "cp.async.bulk.tensor" : "cp.async.bulk.tensor (multicast)",
                        where};
    check(map, at, rank, to, origin);
    // The whole box is counted, also what lies outside of the tensor.
    issue_load(runs_of(map.tiled, at, static_cast<std::byte*>(to), false, *origin.thread->block),
               static_cast<std::uint32_t>(box_bytes(map.tiled)), mbarrier, mask, origin);
}

void tensor_store(const TensorMap& map, const int* at, int rank, const void* from, bool adds, Where where) {
    const Origin origin{&this_thread(),
                        adds ? "cp.reduce.async.bulk.tensor" : "cp.async.bulk.tensor to global memory", where};
    check(map, at, rank, from, origin);
    if (adds && map.tiled.element != Element::float32) fault(origin, "adds float32 only, here");
    std::vector<Run> runs =
        runs_of(map.tiled, at, static_cast<std::byte*>(const_cast<void*>(from)), true, *origin.thread->block);
    std::erase_if(runs, [](const Run& run) { return run.from == nullptr; });
    for (Run& run : runs) {
        std::byte* in_tile = run.to;
        run.to = const_cast<std::byte*>(run.from);
        run.from = in_tile;
    }
    issue_store(std::move(runs), adds, origin);
}

}  // namespace dsa::simulator
