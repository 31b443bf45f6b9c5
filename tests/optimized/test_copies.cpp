// cp.async and bulk copies: they come late, and who does not wait finds poison.
#include "kernels.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"

namespace {

using namespace dsa;
using namespace dsa::testing;

struct Shared {
    alignas(128) int tile[256];
    alignas(16) int second[256];
    Mbarrier full;
};

Launch one_block(int threads = 64) { return {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)}; }

std::vector<int> counted(int count) {
    std::vector<int> x(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) x[static_cast<std::size_t>(i)] = i + 1;
    return x;
}

// 16, 8 and 4 bytes a thread; of the last only 2 are read.
void copies_of_three_sizes(const int* x, int* y, bool waits) {
    Shared& memory = shared<Shared>();
    const int i = static_cast<int>(threadIdx.x);
    cp_async<16>(&memory.tile[4 * i], &x[4 * i]);
    cp_async_commit();
    cp_async<8>(&memory.second[2 * i], &x[2 * i]);
    cp_async<4>(&memory.second[128 + i], &x[i], 2);
    cp_async_commit();
    if (waits) cp_async_wait<0>();
    for (int j = 0; j < 4; ++j) y[4 * i + j] = memory.tile[4 * i + j];
    for (int j = 0; j < 2; ++j) y[256 + 2 * i + j] = memory.second[2 * i + j];
    y[256 + 128 + i] = memory.second[128 + i];
    cp_async_wait<0>();
}

// Only the first group is waited for.
void first_of_two_groups(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    const int i = static_cast<int>(threadIdx.x);
    cp_async<4>(&memory.tile[i], &x[i]);
    cp_async_commit();
    cp_async<4>(&memory.second[i], &x[i]);
    cp_async_commit();
    cp_async_wait<1>();
    y[i] = memory.tile[i];
    cp_async_wait<0>();
}

// The second group is read although it is not waited for.
void second_of_two_groups(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    const int i = static_cast<int>(threadIdx.x);
    cp_async_commit();  // a group of nothing
    cp_async<4>(&memory.tile[i], &x[i]);
    cp_async_commit();
    cp_async_wait<1>();
    y[i] = memory.tile[i];
    cp_async_wait<0>();
}

void told_to_an_mbarrier(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    const int i = static_cast<int>(threadIdx.x);
    if (i == 0) mbarrier_init(memory.full, 64);
    __syncthreads();
    cp_async<4>(&memory.tile[i], &x[i]);
    cp_async_arrive(memory.full);
    mbarrier_wait(memory.full, 0);
    y[i] = memory.tile[63 - i];
}

void begin(Shared& memory) {
    if (threadIdx.x == 0) {
        mbarrier_init(memory.full, 1);
        fence_mbarrier_init();
    }
    cluster_sync();
}

// There and back again: a bulk load, a sum by threads, a bulk store.
void there_and_back(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    begin(memory);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(memory.full, sizeof memory.tile);
        bulk_load(memory.tile, x, sizeof memory.tile, memory.full);
    }
    mbarrier_wait(memory.full, 0);
    for (int i = static_cast<int>(threadIdx.x); i < 256; i += static_cast<int>(blockDim.x)) memory.tile[i] += 5;
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        bulk_store(y, memory.tile, sizeof memory.tile);
        bulk_commit();
        bulk_wait<0>();
    }
}

// Whether poison is seen by who does not wait.
void does_not_wait(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    begin(memory);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(memory.full, sizeof memory.tile);
        bulk_load(memory.tile, x, sizeof memory.tile, memory.full);
        y[0] = memory.tile[0];
    }
    mbarrier_wait(memory.full, 0);
}

// The source of a store is written again before the store has read it.
void writes_into_a_store(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x != 0) return;
    for (int& value : memory.tile) value = 1;
    fence_proxy_async();
    bulk_store(y, memory.tile, sizeof memory.tile);
    bulk_commit();
    for (int& value : memory.tile) value = 2;
    bulk_wait<0>();
}

// Block 0 of two loads for both.
void multicast(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    begin(memory);
    if (threadIdx.x == 0) mbarrier_arrive_expect(memory.full, sizeof memory.tile);
    if (threadIdx.x == 0 && cluster_rank() == 0)
        bulk_load_multicast(memory.tile, x, sizeof memory.tile, memory.full, 0b11);
    mbarrier_wait(memory.full, 0);
    for (int i = static_cast<int>(threadIdx.x); i < 256; i += static_cast<int>(blockDim.x))
        y[256 * static_cast<int>(blockIdx.x) + i] = memory.tile[i];
    cluster_sync();
}

template <class Issue>
void by_thread_0(Issue issue) {
    Shared& memory = shared<Shared>();
    begin(memory);
    if (threadIdx.x == 0) issue(memory);
}
void of_12_bytes(const int* x) {
    by_thread_0([&](Shared& m) { bulk_load(m.tile, x, 12, m.full); });
}
void from_an_odd_address(const int* x) {
    by_thread_0([&](Shared& m) { bulk_load(m.tile, x + 1, 16, m.full); });
}
void beyond_shared_memory(const int* x) {
    by_thread_0([&](Shared& m) { bulk_load(m.second, x, 2 << 10, m.full); });
}
void more_than_expected(const int* x) {
    by_thread_0([&](Shared& m) {
        mbarrier_arrive_expect(m.full, 16);
        bulk_load(m.tile, x, 32, m.full);
        mbarrier_wait(m.full, 0);
    });
}
void less_than_expected(const int* x) {
    by_thread_0([&](Shared& m) {
        mbarrier_arrive_expect(m.full, 48);
        bulk_load(m.tile, x, 32, m.full);
        mbarrier_wait(m.full, 0);
    });
}
void for_a_block_that_is_not(const int* x) {
    by_thread_0([&](Shared& m) { bulk_load_multicast(m.tile, x, 16, m.full, 0b100); });
}
void ends_under_way(const int* x) {
    by_thread_0([&](Shared& m) {
        mbarrier_arrive_expect(m.full, 16);
        bulk_load(m.tile, x, 16, m.full);
    });
}
void ends_while_a_store_reads(int* y) {
    by_thread_0([&](Shared& m) {
        for (int i = 0; i < 16; ++i) m.tile[i] = i;
        fence_proxy_async();
        bulk_store(y, m.tile, 64);
        bulk_commit();
    });
}
void of_6_bytes(const int* x) { simulator::cp_async(shared<Shared>().tile, x, 6, 6, Where::current()); }
void misaligned(const int* x) { cp_async<16>(&shared<Shared>().tile[1], x); }

}  // namespace

TEST_CASE("cp.async: three sizes, zeros past the source, groups in order") {
    const std::vector<int> x = counted(256);
    bool poison = false;
    with_seeds(20, [&] {
        std::vector<int> y(512);
        launch("copies", copies_of_three_sizes, one_block(), x.data(), y.data(), true);
        for (std::size_t i = 0; i < 256; ++i) REQUIRE(y[i] == x[i]);
        for (std::size_t i = 0; i < 128; ++i) REQUIRE(y[256 + i] == x[i]);
        for (std::size_t i = 0; i < 64; ++i) REQUIRE(y[384 + i] == x[i]);  // small numbers: the upper half is 0
        {
            const Unchecked unchecked;
            launch("copies", copies_of_three_sizes, one_block(), x.data(), y.data(), false);
            poison = poison || std::count(y.begin(), y.end(), -1) > 0;
        }
        launch("groups", first_of_two_groups, one_block(), x.data(), y.data());
        for (std::size_t i = 0; i < 64; ++i) REQUIRE(y[i] == x[i]);
        launch("mbarrier", told_to_an_mbarrier, one_block(), x.data(), y.data());
        for (std::size_t i = 0; i < 64; ++i) REQUIRE(y[i] == x[63 - i]);
    });
    CHECK(poison);
    const std::vector<int> large(64, 0x12345678);
    std::vector<int> y(512);
    launch("copies", copies_of_three_sizes, one_block(16), large.data(), y.data(), true);
    CHECK(y[384] == 0x5678);
}

TEST_CASE("bulk copies: there, back, to two blocks at once, and late") {
    alignas(16) static int x[256], y[512];
    for (int i = 0; i < 256; ++i) x[i] = i;
    bool poison = false, spoilt = false;
    with_seeds(20, [&] {
        launch("bulk", there_and_back, one_block(), x, y);
        for (int i = 0; i < 256; ++i) REQUIRE(y[i] == i + 5);
        Launch two = one_block();
        two.blocks = two.cluster = 2;
        launch("multicast", multicast, two, x, y);
        for (int i = 0; i < 512; ++i) REQUIRE(y[i] == i % 256);
        const Unchecked unchecked;
        launch("no wait", does_not_wait, one_block(), x, y);
        poison = poison || y[0] == -1;
        launch("store", writes_into_a_store, one_block(), y);
        spoilt = spoilt || y[0] == 2;
    });
    CHECK(poison);
    CHECK(spoilt);
}

TEST_CASE("copies: misuse is a sentence") {
    alignas(16) static int x[1024];
    const int* const p = x;
    const auto told = [&](auto kernel) { return refusal_of(kernel, one_block(), p); };
    CHECK(holds(told(of_12_bytes), "needs a multiple of 16 bytes, not 12"));
    CHECK(holds(told(from_an_odd_address), "needs both addresses at multiples of 16 bytes"));
    CHECK(holds(told(beyond_shared_memory), "writes outside of the block's shared memory"));
    CHECK(holds(told(more_than_expected), "brings 16 bytes more to the mbarrier"));
    CHECK(holds(told(less_than_expected), "(phase 0, 0 of 1 arrivals and 16 bytes pending)"));
    CHECK(holds(told(for_a_block_that_is_not), "does not have: its mask is 4"));
    CHECK(holds(told(ends_under_way), "cp.async.bulk is still under way in shared memory when all threads"));
    CHECK(holds(refusal_of(ends_while_a_store_reads, one_block(), x), "to global memory is still under way"));
    CHECK(holds(told(of_6_bytes), "copies 4, 8 or 16 bytes, not 6"));
    CHECK(holds(told(misaligned), "needs both addresses at multiples of as many"));
}

// The last of this file: its kernel reads what it has not waited for, so nobody may look for races from here on.
TEST_CASE("a group that is not waited for is late") {
    simulator::listen(nullptr);
    const std::vector<int> x = counted(64);
    bool late = false;
    with_seeds(20, [&] {
        std::vector<int> y(64);
        launch("groups", second_of_two_groups, one_block(), x.data(), y.data());
        late = late || std::count(y.begin(), y.end(), -1) > 0;
    });
    CHECK(late);
}
