// Does the simulator see what nothing puts in order? Each kind of finding, and the right code beside it.
#include <vector>

#include "kernels.h"
#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/mbarrier.h"
#include "optimized/hopper/numbers.h"
#include "optimized/simulator/races.h"

namespace {

using namespace dsa;
using namespace dsa::testing;

struct Shared {
    float sums[32];
    int order[64];
    unsigned char bytes[64];
    alignas(16) int tile[64];
    Mbarrier full;
    int next;
};

Launch one_block(int threads) { return {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)}; }

// What thread i writes, thread i + 1 reads.
template <bool with_barrier>
void read_after_write(int* y) {
    Shared& memory = shared<Shared>();
    const auto i = static_cast<int>(threadIdx.x);
    const auto next = static_cast<int>((threadIdx.x + 32) % blockDim.x);
    memory.order[i] = 0;
    __syncthreads();
    memory.order[i] = i;
    if (with_barrier) __syncthreads();
    y[i] = memory.order[next];
}

template <bool with_barrier>
void write_after_read(int* y) {
    Shared& memory = shared<Shared>();
    memory.order[threadIdx.x] = 1;
    __syncthreads();
    const int sum = memory.order[0] + memory.order[32];
    if (with_barrier) __syncthreads();
    if (threadIdx.x == 33) memory.order[0] = 7;
    y[threadIdx.x] = sum;
}

void everybody_writes(int*) { shared<Shared>().next = 1; }

// A shuffle brings the lanes together, and orders nothing.
template <bool with_barrier>
void taken_by_lane_0(int* y) {
    Shared& memory = shared<Shared>();
    if (lane_id() == 0) memory.next = 3;
    __syncwarp();
    const int seen = memory.next;
    const int sum = over_warp(seen, Sum());
    if (with_barrier) __syncwarp();
    if (lane_id() == 0) memory.next = 4;
    y[lane_id()] = sum;
}

void neighbouring_bytes(int* y) {
    Shared& memory = shared<Shared>();
    memory.bytes[threadIdx.x] = static_cast<unsigned char>(threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) y[0] = *reinterpret_cast<const int*>(&memory.bytes[4]);
}

// One byte of the four is nobody's.
void reads_three_of_four(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x < 3) memory.bytes[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x == 0) y[0] = *reinterpret_cast<const int*>(memory.bytes);
}

template <bool with_barrier>
void counts(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) memory.next = 0;
    __syncthreads();
    atomicAdd(&memory.next, 1);
    if (with_barrier) __syncthreads();
    if (threadIdx.x == 5) y[0] = memory.next;
}

void beyond_the_end(int*) {
    Shared& memory = shared<Shared>();
    reinterpret_cast<char*>(&memory)[sizeof memory + threadIdx.x] = 1;
}

template <bool atomic>
void every_block_adds(int* y) {
    if (threadIdx.x > 0) return;
    if (atomic)
        atomicAdd(&y[0], 1);
    else
        y[0] += 1;
}

void blocks_read_and_one_writes(int* y) {
    if (threadIdx.x > 0) return;
    if (blockIdx.x == 6)
        y[0] = 3;
    else
        y[blockIdx.x + 1] = y[0];
}

void neighbours_in_global_memory(unsigned char* y) { y[blockIdx.x * blockDim.x + threadIdx.x] = 1; }

void through_global_memory(int* y) {
    y[threadIdx.x] = 1;
    y[64 + threadIdx.x] = y[(threadIdx.x + 32) % 64];
}

void who_has_returned(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        memory.next = 1;
        return;
    }
    __syncthreads();
    y[threadIdx.x] = memory.next;
}

// Who waits for a thread's own copies has them; who then meets others at a barrier gives them to them.
template <bool waits, bool with_barrier>
void cp_async_of_another(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    const auto i = static_cast<int>(threadIdx.x);
    cp_async<4>(&memory.tile[i], &x[i]);
    cp_async_commit();
    if (waits) cp_async_wait<0>();
    if (with_barrier) __syncthreads();
    y[i] = memory.tile[with_barrier ? 63 - i : i];
    cp_async_wait<0>();
}

template <bool waits>
void bulk_loads(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(memory.full, sizeof memory.tile);
        bulk_load(memory.tile, x, sizeof memory.tile, memory.full);
    }
    __syncthreads();
    if (waits) mbarrier_wait(memory.full, 0);
    y[threadIdx.x] = memory.tile[threadIdx.x];
    mbarrier_wait(memory.full, 0);
}

// All threads fill a tile, one stores it.
template <bool fences, bool waits>
void bulk_stores(int* y) {
    Shared& memory = shared<Shared>();
    memory.tile[threadIdx.x] = static_cast<int>(threadIdx.x);
    if (fences) fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        bulk_store(y, memory.tile, sizeof memory.tile);
        bulk_commit();
        if (waits) bulk_wait_read<0>();
        memory.tile[0] = 9;
        bulk_wait<0>();
    }
}

// One thread begins a copy or a store, and ends; others of the block go on for a while or not.
template <bool waits>
void stores_and_ends(int* y) {
    Shared& memory = shared<Shared>();
    memory.tile[threadIdx.x] = static_cast<int>(threadIdx.x);
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x != 0) return;
    bulk_store(y, memory.tile, sizeof memory.tile);
    bulk_commit();
    if (waits) bulk_wait_read<0>();
}
template <bool waits>
void copies_and_ends(const int* x) {
    Shared& memory = shared<Shared>();
    cp_async<16>(memory.tile + 4 * threadIdx.x % 64, x);
    cp_async_commit();
    if (waits) cp_async_wait<0>();
}

// Block 0 reads what is in block 1.
template <bool meet_at_the_end>
void reads_of_neighbour(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) memory.next = cluster_rank();
    const int* const there = of_block(&memory.next, 1 - cluster_rank());
    cluster_sync();
    if (threadIdx.x == 0 && cluster_rank() == 0) y[0] = *there;
    if (meet_at_the_end) cluster_sync();
}

// Block 0 arrives at an mbarrier of block 1, where nobody waits.
template <bool meet_at_the_end>
void arrives_at_neighbour(int*) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.full, 1);
        fence_mbarrier_init();
    }
    cluster_sync();
    if (threadIdx.x == 0 && cluster_rank() == 0) mbarrier_arrive_at(memory.full, 1);
    if (meet_at_the_end) cluster_sync();
}

}  // namespace

TEST_CASE("a read after a write needs a barrier") {
    std::vector<int> y(64);
    CHECK(refusal_of(read_after_write<true>, one_block(64), y.data()).empty());
    const std::string told = refusal_of(read_after_write<false>, one_block(64), y.data());
    CAPTURE(told);
    CHECK(holds(told, "of shared memory, which block (0, 0, 0), thread "));
    CHECK(holds(told, "with no barrier of both between (__syncthreads, say)"));
    CHECK(told.find("test_races.cpp:") != told.rfind("test_races.cpp:"));  // both lines
    CHECK(told.find(" after ") != std::string::npos);
}

TEST_CASE("a write after a read needs a barrier") {
    std::vector<int> y(64);
    CHECK(refusal_of(write_after_read<true>, one_block(64), y.data()).empty());
    const std::string told = refusal_of(write_after_read<false>, one_block(64), y.data());
    CAPTURE(told);
    CHECK(told.find(" after ") != std::string::npos);  // which comes first is the schedule's
}

TEST_CASE("two writes need a barrier") {
    const std::string told = refusal_of(everybody_writes, one_block(64), static_cast<int*>(nullptr));
    CAPTURE(told);
    CHECK(holds(told, ": write after write"));
}

TEST_CASE("a shuffle orders no memory") {
    std::vector<int> y(32);
    CHECK(refusal_of(taken_by_lane_0<true>, one_block(32), y.data()).empty());
    const std::string told = refusal_of(taken_by_lane_0<false>, one_block(32), y.data());
    CAPTURE(told);
    CHECK(holds(told, "with no __syncwarp of both between (shuffles and votes order no memory)"));
}

TEST_CASE("neighbouring bytes are no race, and are told apart") {
    std::vector<int> y(64);
    CHECK(refusal_of(neighbouring_bytes, one_block(64), y.data()).empty());
    CHECK(y[0] == 0x07060504);
    const std::string told = refusal_of(reads_three_of_four, one_block(64), y.data());
    CAPTURE(told);
    CHECK(holds(told, "reads byte " + std::to_string(offsetof(Shared, bytes) + 3) +
                          " of shared memory, which nobody has written"));
}

TEST_CASE("atomic updates are no race among themselves, and order nothing") {
    std::vector<int> y(64);
    CHECK(refusal_of(counts<true>, one_block(64), y.data()).empty());
    CHECK(y[0] == 64);
    const std::string told = refusal_of(counts<false>, one_block(64), y.data());
    CAPTURE(told);
    CHECK(holds(told, "thread 5"));
}

TEST_CASE("shared memory ends where the launch said") {
    const std::string told = refusal_of(beyond_the_end, one_block(32), static_cast<int*>(nullptr));
    CAPTURE(told);
    CHECK(holds(told, " of shared memory; the kernel was launched with " + std::to_string(sizeof(Shared))));
}

TEST_CASE("blocks of a grid are in no order") {
    for (int run = 0; run < 3; ++run) {
        std::vector<int> y(65);
        const Launch how{.blocks = 8, .threads = 32};
        CHECK(refusal_of(every_block_adds<true>, how, y.data()).empty());
        CHECK(y[0] == 8);
        CHECK(holds(refusal_of(every_block_adds<false>, how, y.data()), "blocks of a grid are in no order"));
        CHECK(holds(refusal_of(blocks_read_and_one_writes, how, y.data()), "blocks of a grid are in no order"));
        std::vector<unsigned char> bytes(8 * 32);
        CHECK(refusal_of(neighbours_in_global_memory, how, bytes.data()).empty());
    }
}

TEST_CASE("threads of a block are in no order in global memory either") {
    std::vector<int> y(128);
    const std::string told = refusal_of(through_global_memory, one_block(64), y.data());
    CAPTURE(told);
    CHECK(holds(told, "global memory at "));
    CHECK(holds(told, "with no barrier of both between"));
}

TEST_CASE("a barrier does not wait for who has returned, nor order what he did") {
    std::vector<int> y(64);
    CHECK(holds(refusal_of(who_has_returned, one_block(64), y.data()), "thread 0 has written"));
}

TEST_CASE("a copy is there for who has waited for it") {
    alignas(16) static int x[64], y[64];
    for (int run = 0; run < 2; ++run) {
        CHECK(refusal_of(cp_async_of_another<true, true>, one_block(64), x, y).empty());
        CHECK(refusal_of(cp_async_of_another<true, false>, one_block(64), x, y).empty());
        CHECK(holds(refusal_of(cp_async_of_another<false, false>, one_block(64), x, y),
                    "read after write, and nobody has waited for it in between"));
        CHECK(holds(refusal_of(cp_async_of_another<false, true>, one_block(64), x, y), "which cp.async"));
        CHECK(refusal_of(bulk_loads<true>, one_block(64), x, y).empty());
        CHECK(holds(refusal_of(bulk_loads<false>, one_block(64), x, y), "nobody has waited for it"));
    }
}

TEST_CASE("the asynchronous proxy sees ordinary writes behind a fence, and reads late") {
    alignas(16) static int y[64];
    CHECK(refusal_of(bulk_stores<true, true>, one_block(64), y).empty());
    CHECK(holds(refusal_of(bulk_stores<false, true>, one_block(64), y), "no fence.proxy.async lies between"));
    CHECK(holds(refusal_of(bulk_stores<true, false>, one_block(64), y),
                "write after read, and nobody has waited for it in between"));
}

TEST_CASE("a block must not end while what it has begun may still use its shared memory") {
    // Whether it is under way at the end or, by this schedule, no longer.
    with_seeds(20, [] {
        alignas(16) static int y[64];
        REQUIRE(refusal_of(stores_and_ends<true>, one_block(64), y).empty());
        REQUIRE(refusal_of(copies_and_ends<true>, one_block(16), y).empty());
        const std::string stored = refusal_of(stores_and_ends<false>, one_block(64), y);
        const std::string copied = refusal_of(copies_and_ends<false>, one_block(16), y);
        for (const std::string& told : {stored, copied})
            REQUIRE((holds(told, "is still under way in shared memory when all threads") ||
                     holds(told,
                           "uses the shared memory of block (0, 0, 0), which may have returned by then: one of "
                           "its threads must wait for it before it ends")));
    });
}

TEST_CASE("a block must not end while another may still use its shared memory") {
    const Launch two{.blocks = 2, .threads = 64, .shared_bytes = sizeof(Shared), .cluster = 2};
    // Whether the turns bring the end before the visit or after it.
    with_seeds(10, [&] {
        int y[2] = {};
        launch("reads", reads_of_neighbour<true>, two, y);
        REQUIRE((y[0] == 1 && y[1] == 0));
        launch("arrives", arrives_at_neighbour<true>, two, y);
        REQUIRE(holds(refusal_of(reads_of_neighbour<false>, two, y),
                      "uses the shared memory of block (1, 0, 0), which may have returned by then: blocks of a "
                      "cluster must wait for each other before they end"));
        REQUIRE(holds(refusal_of(arrives_at_neighbour<false>, two, y), "returned"));
    });
}

TEST_CASE("the guards around a buffer are not to be touched, byte by byte") {
    std::vector<unsigned char> bytes(300);
    const Launch how{.blocks = 8, .threads = 32};
    simulator::put_off_limits(&bytes[255], 40);
    CHECK(holds(refusal_of(neighbours_in_global_memory, how, bytes.data()), ", beyond the end of a buffer"));
    simulator::allow_again(&bytes[255]);
    simulator::put_off_limits(&bytes[256], 40);
    CHECK(refusal_of(neighbours_in_global_memory, how, bytes.data()).empty());
    simulator::allow_again(&bytes[256]);
}
