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
    Scored* columns;          // [runs, queries of a group, rows, 32]
    std::uint32_t* counts;    // [runs, queries of a group, 32]: rows of each column
    std::int32_t* first_nan;  // [runs, queries of a group]: of what a cut has dropped
    Scored* best;             // [blocks, queries of a group, room]: on their way from columns to columns
    std::int32_t *first_block, *last_block;  // [groups]: who has a group's runs
    const float* guesses;                    // [T]: what a candidate must exceed; null: nobody has guessed
    std::int32_t* again;                     // [groups]: a guess was too high for one of the queries
    std::int32_t* open;                      // [T]: the query's best are still to be found
    std::int64_t rows, room;
    std::uint32_t k;
};

// A sample of the keys tells a score that a few more than k exceed. Fewer than `least` keys are not worth one.
#if defined(DSA_SIMULATOR)
inline constexpr std::int64_t sampled = 128;
inline constexpr std::int64_t blocks_at_work = 3;  // small cases shall have runs of many tiles too
#else
inline constexpr std::int64_t sampled = 1024;
inline constexpr std::int64_t blocks_at_work = 132;  // an H100's multiprocessors
#endif
inline constexpr std::int64_t least_to_sample = 4 * sampled;

struct Sample {
    e4m3* k;                    // [sampled, D_I]
    float* k_scale;             // [sampled]
    std::int32_t *start, *end;  // [T]: which of the sample a query sees
    float* logits;              // [T, sampled]
    float* guesses;             // [T]
};

// Parts of the workspace, one after another, each on a multiple of 256 bytes.
class Parts {
   public:
    explicit Parts(void* begin) : begin_(static_cast<unsigned char*>(begin)) {}
    template <class T>
    T* next(std::int64_t count) {
        constexpr std::int64_t line = 256;
        T* part = begin_ == nullptr ? nullptr : reinterpret_cast<T*>(begin_ + bytes_);
        bytes_ += (count * std::int64_t{sizeof(T)} + line - 1) / line * line;
        return part;
    }
    std::int64_t bytes() const { return bytes_; }

   private:
    unsigned char* begin_;
    std::int64_t bytes_ = 0;
};

struct LevelThree {
    RunLists lists;
    Sample sample;
    std::int64_t queries, blocks;  // of a group; at work
    std::int64_t places;           // in all columns
    bool samples;
    std::int64_t bytes;
};

// After a cut the k best are left, and not many more: the exact k-th best would cost another look. Columns have room
// for 4.5 times as many, since a sample's guess is that rough, but not for more than there are.
inline LevelThree level_three(const IndexerTopK& call) {
    constexpr std::int64_t keys = 64;
    const IndexerLogits& scoring = call.scoring;
    const std::int64_t heads = scoring.H_I <= 32 ? 32 : 64;
    const std::int64_t tiles = (scoring.S + keys - 1) / keys;
    LevelThree all{};
    all.queries = 2 * 256 / heads;
    const std::int64_t groups = (scoring.T + all.queries - 1) / all.queries;
    all.blocks = std::min(blocks_at_work, groups * tiles);
    all.samples = scoring.S >= least_to_sample && scoring.S >= 2 * call.k;
    RunLists& lists = all.lists;
    lists.k = static_cast<std::uint32_t>(call.k);
    lists.room = std::min(call.k + std::max(call.k / 8, std::int64_t{columns_of_a_query}), scoring.S);
    const std::int64_t after_a_cut = (lists.room + columns_of_a_query - 1) / columns_of_a_query;
    lists.rows = std::min(after_a_cut * 9 / 2, 2 * tiles) + newcomers;
    // The run of group g in block b has the number g + b.
    const std::int64_t lists_left = (groups + all.blocks) * all.queries;
    Parts parts(call.workspace);
    all.places = lists_left * lists.rows * columns_of_a_query;
    lists.columns = parts.next<Scored>(all.places);
    lists.counts = parts.next<std::uint32_t>(lists_left * columns_of_a_query);
    lists.first_nan = parts.next<std::int32_t>(lists_left);
    lists.best = parts.next<Scored>(all.blocks * all.queries * lists.room);
    lists.first_block = parts.next<std::int32_t>(groups);
    lists.last_block = parts.next<std::int32_t>(groups);
    lists.again = parts.next<std::int32_t>(groups);
    lists.open = parts.next<std::int32_t>(scoring.T);
    if (all.samples) {
        all.sample.k = parts.next<e4m3>(sampled * scoring.D_I);
        all.sample.k_scale = parts.next<float>(sampled);
        all.sample.start = parts.next<std::int32_t>(scoring.T);
        all.sample.end = parts.next<std::int32_t>(scoring.T);
        all.sample.logits = parts.next<float>(scoring.T * sampled);
        all.sample.guesses = parts.next<float>(scoring.T);
    }
    lists.guesses = all.sample.guesses;
    all.bytes = parts.bytes();
    return all;
}

}  // namespace dsa
