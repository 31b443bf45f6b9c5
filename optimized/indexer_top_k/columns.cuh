// What a consumer of score_ring.cuh does with scores instead of writing them: each thread appends what exceeds its
// query's threshold to a column of its own, so that nobody asks for a slot. When a column is full the warpgroup cuts:
// of each query the k best stay, and not many more, dealt out over the columns anew, and what they all reach becomes
// the threshold. A later score must exceed it, since of equals the earlier one wins. So nothing is ever lost, and
// what the lists hold depends on no schedule, but for the order.
#pragma once

#include "optimized/hopper/barrier.h"
#include "optimized/hopper/warp.h"
#include "optimized/indexer_logits/score_ring.cuh"
#include "optimized/indexer_top_k/run_lists.h"
#include "optimized/top_k/in_registers.cuh"

namespace dsa {

// Higher is better, and no two are equal: of equal scores the lower position is better.
__device__ inline std::uint64_t rank_of(const Scored& mine) {
    return std::uint64_t{key_of(mine.score)} << 32 | ~static_cast<std::uint32_t>(mine.position);
}

// The search for a query's k-th best rank: it lies among the 2^bits from `low` on.
struct RankSearch {
    std::uint64_t low;
    int bits;
    int is_over;  // no more than there is room for have a rank of at least `low`
};

template <class S>
struct CutMemory {
    static constexpr int digit_bits = S::queries <= 8 ? 8 : 7;
    static constexpr int bins = 1 << digit_bits;
    std::uint32_t counts[S::queries][bins];
    std::uint32_t beyond[S::queries];  // ranks above those that the bins cover
    RankSearch search[S::queries];
    std::uint32_t kept[S::queries];
    std::int32_t first_nan[S::queries];
    std::uint32_t fullest[3];  // column, at this look; looks take turns, and the next but one is at 0
    std::uint32_t zero;
};

// Who a thread is among its warpgroup's. The compiler holds what follows from threadIdx, conditions above all, in
// registers through the loop of scores, which needs every one (notes.md); of a number that comes from memory it can
// not know that it is the same each time.
template <class S>
struct Me {
    static constexpr int own = S::queries / 4;  // queries
    static constexpr int threads = 128;
    int thread, consumer;

    __device__ explicit Me(const CutMemory<S>& memory) {
        const std::uint32_t i = threadIdx.x + memory.zero;
        thread = static_cast<int>(i % threads);
        consumer = static_cast<int>(i / threads) - 1;
    }
    __device__ int lane() const { return thread % warp_size; }
    __device__ int warp() const { return thread / warp_size; }
    __device__ int query(int a) const { return 4 * a + thread % 4; }  // as Scores::query
    __device__ int column() const { return warp() * 8 + lane() / 4; }
    __device__ void sync() const { barrier_sync(1 + consumer, threads); }

    // The sum of `mine` in this lane and those `step`, 2 step, ... before it.
    __device__ std::uint32_t sum_up_to(std::uint32_t mine, int step) const {
        for (int delta = step; delta < warp_size; delta *= 2) {
            const std::uint32_t other = __shfl_up_sync(all_lanes, mine, static_cast<unsigned>(delta));
            if (lane() >= delta) mine += other;
        }
        return mine;
    }
};

template <class S, class Problem>
class KeepCandidates {
   public:
    using Memory = CutMemory<S>;
    static constexpr int own = S::queries / 4;  // a thread's queries

    __device__ KeepCandidates(const Problem& problem, const RunLists& lists, Memory& memory)
        : problem_(problem), lists_(lists), memory_(memory) {}

    __device__ int begin(int t_0, int t_end) {
        const Me<S> me(memory_);
        t_0_ = t_0;
#pragma unroll
        for (int a = 0; a < own; ++a) {
            const int t = t_0 + me.query(a);
            const Seen seen = t < t_end ? problem_.seen(t) : Seen{0, 0};
            begin_[a] = seen.begin;
            size_[a] = static_cast<std::uint32_t>(max(seen.end - seen.begin, 0));
            threshold_[a] = __uint_as_float(0xffffffffU);  // a NaN, which every score exceeds
            if (t < t_end && lists_.guesses != nullptr) threshold_[a] = lists_.guesses[t];
            next_[a] = column(me, a);
        }
        if (me.thread < S::queries) {
            memory_.first_nan[me.thread] = no_position;
            memory_.search[me.thread].low = 0;
        }
        return tiles_until_full(0);
    }

    __device__ void operator()(int s_0, const float (&scores)[S::scores]) {
        const int s = s_0 + S::row(0);
#pragma unroll
        for (int i = 0; i < S::scores; ++i) {
            const int a = i % own, mine = s + i / own * 8;
            if (static_cast<std::uint32_t>(mine - begin_[a]) < size_[a] && !(scores[i] <= threshold_[a])) {
                *next_[a] = {scores[i], mine};
                next_[a] += columns_of_a_query;
            }
        }
    }

    // How full is the fullest column? All warps hear the same answer.
    __device__ int rest() {
        const Me<S> me(memory_);
        std::uint32_t mine = 0;
#pragma unroll
        for (int a = 0; a < own; ++a) mine = max(mine, rows(me, a));
        const std::uint32_t of_warp = redux_max(mine);
        if (me.lane() == 0) atomicMax(&memory_.fullest[look_], of_warp);
        me.sync();
        const std::uint32_t fullest = uniform(memory_.fullest[look_]);
        look_ = look_ == 2 ? 0 : look_ + 1;
        if (me.thread == 0) memory_.fullest[look_ == 2 ? 0 : look_ + 1] = 0;
        if (fullest + newcomers <= lists_.rows) return tiles_until_full(fullest);
        cut(me);
        deal_out_again(me);
        return tiles_between_looks;
    }

    __device__ void end() {
        const Me<S> me(memory_);
#pragma unroll
        for (int a = 0; a < own; ++a) lists_.counts[query(me, a) * columns_of_a_query + me.column()] = rows(me, a);
        if (me.thread < S::queries) lists_.first_nan[first_query(me) + me.thread] = memory_.first_nan[me.thread];
    }

   private:
    static constexpr int threads = Me<S>::threads;
    static constexpr int batch = 8;  // candidates that a thread looks at together

    // This run's first query among those of all runs; own query a; and where its column begins in lists.columns.
    __device__ std::uint32_t first_query(const Me<S>& me) const {
        const std::uint32_t group = static_cast<std::uint32_t>(t_0_) / (consumers * S::queries);
        return ((group + blockIdx.x) * consumers + static_cast<std::uint32_t>(me.consumer)) * S::queries;
    }
    __device__ std::uint32_t query(const Me<S>& me, int a) const {
        return first_query(me) + static_cast<std::uint32_t>(me.query(a));
    }
    __device__ Scored* column(const Me<S>& me, int a) const {
        return lists_.columns + query(me, a) * lists_.rows * columns_of_a_query + me.column();
    }
    __device__ std::uint32_t rows(const Me<S>& me, int a) const {
        return static_cast<std::uint32_t>(next_[a] - column(me, a)) / columns_of_a_query;
    }
    // A tile brings two candidates to a column at most.
    __device__ int tiles_until_full(std::uint32_t rows) const {
        return static_cast<int>(static_cast<std::uint32_t>(lists_.rows) - rows) / 2;
    }
    // Lane 0's: the compiler then knows that lanes agree on how long the loop of scores is.
    __device__ static std::uint32_t uniform(std::uint32_t mine) { return __shfl_sync(all_lanes, mine, 0); }
    // Where the best of own query a are on their way.
    __device__ Scored* best(const Me<S>& me, int a) const {
        const std::int64_t first = (std::int64_t{blockIdx.x} * consumers + me.consumer) * S::queries;
        return lists_.best + (first + me.query(a)) * lists_.room;
    }

    // see(candidates, how many of them there are) for own query a's column, some at a time, so that their loads are
    // under way together.
    template <class See>
    __device__ void each(const Me<S>& me, int a, See see) const {
        const Scored* from = column(me, a);
        const int own_rows = static_cast<int>(rows(me, a)), most = redux_max(own_rows);
        for (int base = 0; base < most; base += batch) {
            Scored some[batch];
#pragma unroll
            for (int i = 0; i < batch; ++i)
                some[i] = base + i < own_rows ? from[(base + i) * columns_of_a_query] : Scored{0.0F, 0};
            see(some, own_rows - base);
        }
    }

    // The k best of each query, and not many more, leave the columns. The warpgroup's threads come.
    __device__ void cut(const Me<S>& me) {
        if (me.thread < S::queries) memory_.kept[me.thread] = 0;
        me.sync();
#pragma unroll
        for (int a = 0; a < own; ++a) atomicAdd(&memory_.kept[me.query(a)], rows(me, a));
        me.sync();
        if (me.thread < S::queries) {
            // The k-th best was last found at `low`. It is likely to lie within two octaves above.
            const std::uint64_t low = memory_.search[me.thread].low >> 32 << 32;
            memory_.search[me.thread] = {low, low == 0 ? 64 : 32 + 24, memory_.kept[me.thread] <= lists_.room};
            memory_.kept[me.thread] = 0;
        }
        me.sync();
        while (!all_are_over()) narrow(me);
#pragma unroll
        for (int a = 0; a < own; ++a) keep(me, a);
        me.sync();
    }

    __device__ bool all_are_over() const {
        bool over = true;
        for (int q = 0; q < S::queries; ++q) over = over && memory_.search[q].is_over != 0;
        return over;
    }

    // One digit further.
    __device__ void narrow(const Me<S>& me) {
        for (int i = me.thread; i < S::queries * Memory::bins; i += threads)
            memory_.counts[i / Memory::bins][i % Memory::bins] = 0;
        if (me.thread < S::queries) memory_.beyond[me.thread] = 0;
        me.sync();
#pragma unroll
        for (int a = 0; a < own; ++a) {
            const RankSearch search = memory_.search[me.query(a)];
            const int shift = max(0, search.bits - Memory::digit_bits);
            std::uint32_t beyond = 0;
            each(me, a, [&](const Scored(&some)[batch], int count) {
                if (search.is_over) return;
#pragma unroll
                for (int i = 0; i < batch; ++i) {
                    const std::uint64_t rank = rank_of(some[i]);
                    if (i >= count || rank < search.low) continue;
                    const std::uint64_t bin = (rank - search.low) >> shift;
                    if (bin < Memory::bins)
                        atomicAdd(&memory_.counts[me.query(a)][bin], 1U);
                    else
                        ++beyond;
                }
            });
            if (beyond > 0) atomicAdd(&memory_.beyond[me.query(a)], beyond);
        }
        me.sync();
        for (int q = me.warp(); q < S::queries; q += 4) find_bin(me, q);
        me.sync();
    }

    // The bin of query q's k-th best. One warp; lane 0 has the best bins.
    __device__ void find_bin(const Me<S>& me, int q) {
        constexpr int each_lane = Memory::bins / warp_size;
        const RankSearch search = memory_.search[q];
        if (search.is_over) return;
        const std::uint32_t* best = &memory_.counts[q][Memory::bins - 1 - me.lane() * each_lane];
        std::uint32_t mine = 0;
#pragma unroll
        for (int i = 0; i < each_lane; ++i) mine += best[-i];
        std::uint32_t above = memory_.beyond[q] + me.sum_up_to(mine, 1) - mine;
        __syncwarp();  // all lanes have read the search
        if (memory_.beyond[q] >= lists_.k && me.lane() == 0) memory_.search[q] = {0, 64, false};  // it lies further
        if (above >= lists_.k || above + mine < lists_.k) return;
        const int shift = max(0, search.bits - Memory::digit_bits);
        for (int i = 0; i < each_lane; ++i) {
            above += best[-i];
            if (above < lists_.k) continue;
            const auto bin = static_cast<std::uint64_t>(Memory::bins - 1 - me.lane() * each_lane - i);
            memory_.search[q] = {search.low + (bin << shift), shift, above <= lists_.room};
            return;
        }
    }

    // Own candidates of query a that reach what was found.
    __device__ void keep(const Me<S>& me, int a) {
        const int q = me.query(a);
        Scored* to = best(me, a);
        const std::uint64_t low = memory_.search[q].low;
        each(me, a, [&](const Scored(&some)[batch], int count) {
            std::uint32_t stay = 0;
#pragma unroll
            for (int i = 0; i < batch; ++i) {
                if (i >= count) continue;
                if (is_nan(some[i].score)) atomicMin(&memory_.first_nan[q], some[i].position);
                if (rank_of(some[i]) >= low) stay |= 1U << i;
            }
            // The 8 lanes of a query ask for their slots together.
            const auto mine = static_cast<std::uint32_t>(__popc(stay));
            const std::uint32_t up_to = me.sum_up_to(mine, 4);
            std::uint32_t first = 0;
            if (me.lane() >= warp_size - 4) first = atomicAdd(&memory_.kept[q], up_to);
            std::uint32_t slot = __shfl_sync(all_lanes, first, warp_size - 4 + me.lane() % 4) + up_to - mine;
#pragma unroll
            for (int i = 0; i < batch; ++i)
                if ((stay >> i & 1) != 0) to[slot++] = some[i];
        });
    }

    // Back into the columns, evenly; with a threshold for what comes.
    __device__ void deal_out_again(const Me<S>& me) {
#pragma unroll
        for (int a = 0; a < own; ++a) {
            const int q = me.query(a);
            const Scored* from = best(me, a);
            const auto count = static_cast<int>(memory_.kept[q]);
            next_[a] = column(me, a);
            for (int i = me.column(); i < count; i += columns_of_a_query, next_[a] += columns_of_a_query)
                *next_[a] = from[i];
            const auto low = static_cast<std::uint32_t>(memory_.search[q].low >> 32);
            if (low != 0) threshold_[a] = score_of(low);
        }
        me.sync();
    }

    const Problem& problem_;
    const RunLists& lists_;
    Memory& memory_;
    int t_0_ = 0, look_ = 0;
    int begin_[own];           // what a query sees
    std::uint32_t size_[own];  // of that
    float threshold_[own];
    Scored* next_[own];  // where the next candidate goes
};

}  // namespace dsa
