// Where level 3 keeps candidates. All of it lies in the workspace: O(T k), and nothing of [T, S].
//
// score_ring.cuh deals all tiles of all groups of queries out to the blocks in equal runs, so that a group may be
// shared by several blocks. Groups and blocks go up together: the run of group g in block b has the number g + b, and
// those of a group are neighbours.
#pragma once

#include <algorithm>

#include "optimized/hopper/device.h"
#include "optimized/indexer_top_k/op.h"

namespace dsa {

// A candidate as it is appended: its key is made where the list is looked at.
struct alignas(8) Scored {
    float score;
    std::int32_t position;
};

inline constexpr int columns_of_a_query = 32;              // its threads: 8 lanes of each of 4 warps
inline constexpr int tiles_between_looks = 8;              // at how full the columns are
inline constexpr int newcomers = 2 * tiles_between_looks;  // that a column gets until then, at most

struct RunLists {
    Scored* columns;            // [blocks, queries of a group, rows, 32]: while a run is under way
    Scored* kept;               // [runs, queries of a group, room]: what it leaves
    std::uint32_t* counts;      // [runs, queries of a group]: of kept
    std::int32_t* first_nan;    // the same
    std::int32_t* first_block;  // [groups]: who has a group's runs
    std::int32_t* last_block;   // [groups]
    std::int64_t rows, room;
    std::uint32_t k;
};

#if defined(DSA_SIMULATOR)
inline constexpr std::int64_t blocks_at_work = 3;  // small cases shall have runs of many tiles too
#else
inline constexpr std::int64_t blocks_at_work = 132;  // an H100's multiprocessors
#endif

struct RunListSizes {
    std::int64_t queries, groups, blocks, rows, room;
    std::int64_t runs() const { return groups + blocks; }
    std::int64_t bytes() const {
        return (blocks * rows * columns_of_a_query + runs() * room) * queries * std::int64_t{sizeof(Scored)} +
               runs() * queries * 8 + groups * 8;
    }
};

// A run leaves the k best of its keys, and not many more: the exact k-th best would cost another look. Its columns
// have room for four times as many, but not for more than there are.
inline RunListSizes run_list_sizes(const IndexerTopK& call) {
    constexpr std::int64_t keys = 64;
    const std::int64_t heads = call.scoring.H_I <= 16 ? 16 : call.scoring.H_I <= 32 ? 32 : 64;
    const std::int64_t tiles = (call.scoring.S + keys - 1) / keys;
    RunListSizes sizes{};
    sizes.queries = 2 * 256 / heads;
    sizes.groups = (call.scoring.T + sizes.queries - 1) / sizes.queries;
    sizes.blocks = std::min(blocks_at_work, sizes.groups * tiles);
    sizes.room = std::min(call.k + std::max(call.k / 8, std::int64_t{columns_of_a_query}), call.scoring.S);
    const std::int64_t after_a_cut = (sizes.room + columns_of_a_query - 1) / columns_of_a_query;
    sizes.rows = std::min(4 * after_a_cut, 2 * tiles) + newcomers;
    return sizes;
}

inline RunLists run_lists(const IndexerTopK& call) {
    const RunListSizes sizes = run_list_sizes(call);
    RunLists lists{};
    lists.rows = sizes.rows;
    lists.room = sizes.room;
    lists.k = static_cast<std::uint32_t>(call.k);
    lists.columns = static_cast<Scored*>(call.workspace);
    lists.kept = lists.columns + sizes.blocks * sizes.queries * sizes.rows * columns_of_a_query;
    lists.counts = reinterpret_cast<std::uint32_t*>(lists.kept + sizes.runs() * sizes.queries * sizes.room);
    lists.first_nan = reinterpret_cast<std::int32_t*>(lists.counts + sizes.runs() * sizes.queries);
    lists.first_block = lists.first_nan + sizes.runs() * sizes.queries;
    lists.last_block = lists.first_block + sizes.groups;
    return lists;
}

}  // namespace dsa
