// Blocks of a cluster: their barrier, their shared memory, and what comes of a block that ends too early.
#include "kernels.h"
#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/fence.h"

namespace {

using namespace dsa;
using namespace dsa::testing;

struct Shared {
    int mine;
    int sum;
    Mbarrier barrier;
    alignas(16) int sent[64];
    alignas(16) int outbox[64];
};

Launch clusters(int blocks, int of, int threads = 64) {
    return {.blocks = blocks, .threads = threads, .shared_bytes = sizeof(Shared), .cluster = of};
}

// Each block reads its neighbour's number, and all add to the sum of block 0.
void neighbours(int* y) {
    Shared& memory = shared<Shared>();
    const int rank = cluster_rank(), size = cluster_size();
    if (threadIdx.x == 0) memory.mine = 10 + static_cast<int>(blockIdx.x), memory.sum = 0;
    cluster_sync();
    atomicAdd(of_block(&memory.sum, 0), 1);
    if (threadIdx.x == 0) y[2 * blockIdx.x] = *of_block(&memory.mine, (rank + 1) % size);
    cluster_sync();
    if (threadIdx.x == 0) y[2 * blockIdx.x + 1] = rank == 0 ? memory.sum : -1;
}

// A block fills an outbox and sends it to its neighbour, who waits for the bytes.
void sends(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(memory.barrier, sizeof memory.sent);
    }
    memory.outbox[threadIdx.x] = static_cast<int>(1000 * blockIdx.x + threadIdx.x);
    fence_proxy_async();
    cluster_sync();
    if (threadIdx.x == 0) {
        bulk_send(memory.sent, memory.outbox, sizeof memory.sent, memory.barrier,
                  (cluster_rank() + 1) % cluster_size());
    }
    mbarrier_wait(memory.barrier, 0);
    y[64 * blockIdx.x + threadIdx.x] = memory.sent[threadIdx.x];
    cluster_sync();
}

// One arrival a thread of every block at the barrier of block 0.
void arrives_far_away(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.barrier, static_cast<int>(blockDim.x) * cluster_size());
        fence_mbarrier_init();
    }
    cluster_sync();
    mbarrier_arrive_at(memory.barrier, 0);
    if (cluster_rank() == 0) mbarrier_wait(memory.barrier, 0);
    y[64 * blockIdx.x + threadIdx.x] = 1;
    cluster_sync();
}

void beyond_the_cluster() { of_block(&shared<Shared>().mine, 2); }
void waits_without_arriving() { cluster_wait(); }
void arrives_twice() {
    cluster_arrive();
    cluster_arrive();
}
void some_never_arrive() {
    if (cluster_rank() == 0)
        cluster_sync();
    else
        mbarrier_wait(shared<Shared>().barrier, 0);
}
void ends_too_early(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) memory.mine = 3;
    cluster_sync();
    if (cluster_rank() == 1) return;
    for (int i = 0; i < 1000; ++i) __syncthreads();
    if (threadIdx.x == 0) *y = *of_block(&memory.mine, 1);
}
void arrives_without_fence() {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) mbarrier_init(memory.barrier, 1);
    cluster_sync();
    if (threadIdx.x == 0) mbarrier_arrive_at(memory.barrier, 1 - cluster_rank());
    cluster_sync();
}

}  // namespace

TEST_CASE("blocks of a cluster see each other's shared memory") {
    with_seeds(10, [] {
        int y[16] = {};
        launch("neighbours", neighbours, clusters(8, 4), y);
        for (int b = 0; b < 8; ++b) {
            REQUIRE(y[2 * b] == 10 + b / 4 * 4 + (b + 1) % 4);
            REQUIRE(y[2 * b + 1] == (b % 4 == 0 ? 256 : -1));
        }
        std::vector<int> sent(256), arrived(256);
        launch("sends", sends, clusters(4, 2), sent.data());
        for (int i = 0; i < 256; ++i) REQUIRE(sent[static_cast<std::size_t>(i)] == 1000 * (i / 64 ^ 1) + i % 64);
        launch("arrives", arrives_far_away, clusters(4, 4), arrived.data());
        REQUIRE(std::count(arrived.begin(), arrived.end(), 1) == 256);
    });
}

TEST_CASE("clusters: misuse is a sentence") {
    CHECK(holds(refusal_of(beyond_the_cluster, clusters(2, 2)), "mapa asks for block 2 of a cluster of 2"));
    CHECK(
        holds(refusal_of(waits_without_arriving, clusters(2, 2)), "comes without barrier.cluster.arrive before it"));
    CHECK(holds(refusal_of(arrives_twice, clusters(2, 2)), "without barrier.cluster.wait between"));
    CHECK(holds(refusal_of(some_never_arrive, clusters(2, 2)), "which nobody has initialised"));
    CHECK(
        holds(refusal_of(arrives_without_fence, clusters(2, 2)), "after mbarrier.init it needs fence.mbarrier_init"));
    int y = 0;
    CHECK(holds(refusal_of(ends_too_early, clusters(2, 2), &y), "must wait for each other before they end"));
    const auto nothing = +[] {};
    CHECK(holds(refusal_of(nothing, clusters(3, 2)), "must be whole clusters"));
    CHECK(holds(refusal_of(nothing, clusters(16, 16)), "a cluster has 1 to 8"));
}
