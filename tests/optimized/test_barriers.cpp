// Named barriers, mbarriers, registers: what they order, and what hardware would not forgive.
#include "kernels.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/barrier_any.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/dependent.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/warp.h"

namespace {

using namespace dsa;
using namespace dsa::testing;

struct Shared {
    Mbarrier barrier;
    Mbarrier other;
    int values[128];
};

Launch threads(int count) { return {.blocks = 1, .threads = count, .shared_bytes = sizeof(Shared)}; }

// Warp 0 writes and says so; warps 1 and 2 wait; warp 3 has nothing to do with it.
void producer_arrives(int* y) {
    Shared& memory = shared<Shared>();
    const int warp = warp_id();
    if (warp == 0) {
        memory.values[lane_id()] = lane_id() + 1;
        barrier_arrive(3, 96);
    } else if (warp < 3) {
        barrier_sync(3, 96);
        y[threadIdx.x] = memory.values[lane_id()];
    }
}

// Warps 0 and 1 vote among themselves, 2 and 3 too, again and again; in round r thread r % 80 says yes.
void votes(int* y) {
    const int thread = static_cast<int>(threadIdx.x), pair = thread / 64;
    for (int round = 0; round < 128; ++round)
        y[128 * round + thread] = barrier_any(6 + pair, 64, thread == round % 80) ? 1 : 0;
}

void half_a_warp() {
    if (threadIdx.x < 16 || threadIdx.x >= 48) barrier_sync(1, 32);
}
void counts_differ() { barrier_sync(2, threadIdx.x < 32 ? 32 + 32 : 96); }
void comes_twice() {
    if (threadIdx.x < 32) {
        barrier_arrive(4, 64);
        barrier_arrive(4, 64);
    }
}
void waits_alone() {
    if (threadIdx.x < 32) barrier_sync(5, 64);
}

// Each thread of warp 1 waits for both phases, in which warp 0 arrives.
void two_phases(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.barrier, 32);
        mbarrier_init(memory.other, 32);
        fence_mbarrier_init();
    }
    __syncthreads();
    for (int round = 0; round < 4; ++round) {
        if (warp_id() == 0) {
            mbarrier_wait(memory.other, (round & 1) ^ 1);  // at first: the phase before the first is complete
            memory.values[lane_id()] = 100 * round + lane_id();
            mbarrier_arrive(memory.barrier);
        } else {
            mbarrier_wait(memory.barrier, round & 1);
            y[32 * round + lane_id()] = memory.values[31 - lane_id()];
            mbarrier_arrive(memory.other);
        }
    }
}

void spins_on_test(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) mbarrier_init(memory.barrier, 1);
    __syncthreads();
    if (threadIdx.x == 0) memory.values[0] = 7;
    if (threadIdx.x == 0) mbarrier_arrive(memory.barrier);
    while (!mbarrier_test(memory.barrier, 0)) {
    }
    y[threadIdx.x] = memory.values[0];
}

template <class Use>
void with_barrier(int arrivals, Use use) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) mbarrier_init(memory.barrier, arrivals);
    __syncthreads();
    use(memory);
}

void waits_for_nobody() {
    with_barrier(2, [](Shared& memory) {
        if (threadIdx.x == 0) mbarrier_arrive_expect(memory.barrier, 512);
        mbarrier_wait(memory.barrier, 0);
    });
}
void arrives_too_often() {
    with_barrier(1, [](Shared& memory) {
        if (threadIdx.x == 0) mbarrier_expect(memory.barrier, 16);
        __syncthreads();
        mbarrier_arrive(memory.barrier);
    });
}
void expects_too_much() {
    with_barrier(1, [](Shared& memory) {
        for (int i = 0; i < 3; ++i) mbarrier_expect(memory.barrier, 1 << 19);
    });
}
void not_initialised() { mbarrier_arrive(shared<Shared>().barrier); }
void written_over() {
    with_barrier(32, [](Shared& memory) {
        memory.barrier.state = 5;
        mbarrier_arrive(memory.barrier);
    });
}
void initialised_twice() {
    with_barrier(32, [](Shared& memory) { mbarrier_init(memory.barrier, 1); });
}
void invalid_after_use() {
    with_barrier(32, [](Shared& memory) {
        mbarrier_arrive(memory.barrier);
        __syncthreads();
        if (threadIdx.x == 0) mbarrier_invalidate(memory.barrier);
        __syncthreads();
        mbarrier_arrive(memory.barrier);
    });
}
// Lanes 1 ... 31 wait for phase 0, while lane 0 goes through two phases.
void phases_overtake() {
    with_barrier(1, [](Shared& memory) {
        if (threadIdx.x == 0)
            for (int i = 0; i < 2; ++i) mbarrier_arrive(memory.barrier);
        else
            mbarrier_wait(memory.barrier, 0);
    });
}

void registers_move(int* y) {
    if (threadIdx.x < 128)
        give_back_registers<40>();
    else
        take_registers<232>();
    y[threadIdx.x] = 1;
}
void registers_that_nobody_gives() {
    if (threadIdx.x >= 128) take_registers<232>();
}
void registers_of_half_a_warpgroup() {
    if (threadIdx.x < 64) give_back_registers<40>();
}
void registers_up_by_down() { give_back_registers<248>(); }
void registers_odd() { give_back_registers<41>(); }

void folds(int* y) {
    const auto x = static_cast<std::int32_t>(threadIdx.x) - 5;
    const int found[7] = {redux_add(x),
                          redux_min(x),
                          redux_max(x),
                          static_cast<int>(redux_max(static_cast<std::uint32_t>(x))),
                          static_cast<int>(redux_xor(threadIdx.x)),
                          static_cast<int>(redux_or(threadIdx.x)),
                          static_cast<int>(redux_and(threadIdx.x | 64U))};
    if (threadIdx.x == 7) std::copy(std::begin(found), std::end(found), y);
}
void elections(int* y) {
    if (elect_one()) ++y[0], y[1] = lane_id();
    if (elect_one()) ++y[0], y[2] = lane_id();
}

void waits_for_previous() { wait_for_previous_kernel(); }
void never_waits() {}

}  // namespace

TEST_CASE("a named barrier orders those who sync after those who arrive") {
    with_seeds(20, [] {
        int y[128] = {};
        launch("arrives", producer_arrives, threads(128), y);
        for (int i = 32; i < 96; ++i) REQUIRE(y[i] == i % 32 + 1);
    });
}

TEST_CASE("a vote at a named barrier is of those who sync there, and of this time") {
    with_seeds(5, [] {
        std::vector<int> y(128 * 128);
        launch("votes", votes, threads(128), y.data());
        for (int i = 0; i < 128 * 128; ++i)
            REQUIRE(y[static_cast<std::size_t>(i)] == (i / 128 % 80 / 64 == i % 128 / 64 ? 1 : 0));
    });
}

TEST_CASE("named barriers: misuse is a sentence") {
    CHECK(holds(refusal_of(half_a_warp, threads(64)), "only: all lanes of a warp must come to it"));
    CHECK(holds(refusal_of(counts_differ, threads(96)), "threads to those who came, and of"));
    CHECK(holds(refusal_of(comes_twice, threads(64)), "comes to barrier 4 a second time before it is complete"));
    CHECK(holds(refusal_of(waits_alone, threads(64)),
                "32 threads wait at barrier 5 (32 of 64 threads have come) at test_barriers.cpp:"));
    const auto seventeenth = +[] { barrier_sync(16, 32); };
    CHECK(holds(refusal_of(seventeenth, threads(32)), "barrier 16 does not exist"));
}

TEST_CASE("an mbarrier's phases follow each other") {
    with_seeds(20, [] {
        int y[128] = {};
        launch("phases", two_phases, threads(64), y);
        for (int round = 0; round < 4; ++round)
            for (int lane = 0; lane < 32; ++lane) REQUIRE(y[32 * round + lane] == 100 * round + 31 - lane);
        int z[64] = {};
        launch("spins", spins_on_test, threads(64), z);
        for (const int value : z) REQUIRE(value == 7);
    });
}

TEST_CASE("mbarriers: misuse is a sentence, and a deadlock tells the phase") {
    CHECK(holds(refusal_of(waits_for_nobody, threads(32)),
                "32 threads wait at the mbarrier at byte 0 of shared memory (phase 0, 1 of 2 arrivals and 512 bytes "
                "pending) at test_barriers.cpp:"));
    CHECK(holds(refusal_of(arrives_too_often, threads(32)),
                "mbarrier.arrive arrives 1 times at the mbarrier at byte 0"));
    CHECK(holds(refusal_of(expects_too_much, threads(32)), "it can count 1048575"));
    CHECK(holds(refusal_of(not_initialised, threads(32)), "which nobody has initialised"));
    CHECK(holds(refusal_of(written_over, threads(32)), "has been written over"));
    CHECK(holds(refusal_of(initialised_twice, threads(32)), "end it first with mbarrier.inval"));
    CHECK(holds(refusal_of(invalid_after_use, threads(32)), "which nobody has initialised"));
    CHECK(holds(refusal_of(phases_overtake, threads(32)), "by the parity it cannot tell them apart"));
}

TEST_CASE("registers move between warpgroups, and only as many as there are") {
    std::vector<int> y(384);
    launch("registers", registers_move, threads(384), y.data());
    CHECK(std::count(y.begin(), y.end(), 1) == 384);
    CHECK(holds(refusal_of(registers_that_nobody_gives, threads(384)), "setmaxnreg.inc from 168 to 232 registers"));
    CHECK(holds(refusal_of(registers_of_half_a_warpgroup, threads(384)),
                "are of one warpgroup and have not executed the same setmaxnreg"));
    CHECK(holds(refusal_of(registers_up_by_down, threads(384)), "but a thread of this warp has 168"));
    CHECK(holds(refusal_of(registers_odd, threads(384)), "needs a multiple of 8 from 24 to 256, not 41"));
}

TEST_CASE("folds and elections of a warp") {
    int y[7] = {};
    launch("folds", folds, threads(32), y);
    CHECK(y[0] == 31 * 16 - 5 * 32);
    CHECK(y[1] == -5);
    CHECK(y[2] == 26);
    CHECK(y[3] == -1);  // the largest of unsigned numbers
    CHECK(y[4] == 0);
    CHECK(y[5] == 31);
    CHECK(y[6] == 64);
    bool other_than_0 = false;
    with_seeds(5, [&] {
        int z[3] = {};
        launch("elections", elections, threads(32), z);
        CHECK(z[0] == 2);
        CHECK(z[1] == z[2]);
        other_than_0 = other_than_0 || z[1] != 0;
    });
    CHECK(other_than_0);
}

TEST_CASE("a kernel that overlaps the one ahead must wait for it") {
    Launch how = threads(32);
    how.overlaps_previous = true;
    CHECK(refusal_of(waits_for_previous, how) == "");
    CHECK(holds(refusal_of(never_waits, how), "no thread has waited for that one"));
}
