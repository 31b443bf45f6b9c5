// The events of order.h: are they told, by whom, and of which bytes?
#include "kernels.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/matrix.h"
#include "optimized/hopper/tma.h"
#include "optimized/hopper/wgmma.h"
#include "optimized/simulator/order.h"

namespace {

using namespace dsa;
using namespace dsa::testing;
using simulator::Operation;

// Counts what it hears.
class Listener : public simulator::Order {
 public:
    struct Heard {
        std::string what;
        simulator::Proxy through;
        std::size_t read = 0, written = 0;
        unsigned threads = 1;
        int released = 0, acquired = 0, acquired_reads = 0;
    };
    std::vector<Heard> operations;
    int releases = 0, acquires = 0, fences = 0, blocks = 0;
    std::size_t read = 0, written = 0;

    void block_begins(const simulator::Block&) override { ++blocks; }
    void block_ends(const simulator::Block&) override { --blocks; }
    void release(const simulator::Thread&, simulator::Round) override { ++releases; }
    void acquire(const simulator::Thread&, simulator::Round) override { ++acquires; }
    void fence_proxy_async(const simulator::Thread&, Where) override { ++fences; }
    void reads(const simulator::Thread&, const void*, std::size_t count, Where) override { read += count; }
    void writes(const simulator::Thread&, const void*, std::size_t count, Where) override { written += count; }
    Operation begins(const simulator::Thread&, simulator::Proxy through, const char* what, Where) override {
        operations.push_back({what, through});
        return operations.size() - 1;
    }
    void begins_also(Operation o, const simulator::Thread&) override { ++operations[o].threads; }
    void reads(Operation o, const void*, std::size_t count) override { operations[o].read += count; }
    void writes(Operation o, const void*, std::size_t count) override { operations[o].written += count; }
    void release(Operation o, simulator::Round) override { ++operations[o].released; }
    void acquire(const simulator::Thread&, Operation o, simulator::Part part) override {
        ++(part == simulator::Part::all ? operations[o].acquired : operations[o].acquired_reads);
    }
};

template <class Run>
Listener heard(Run run) {
    Listener listener;
    simulator::listen(&listener);
    run();
    simulator::listen(nullptr);
    CHECK(listener.blocks == 0);
    return listener;
}

struct Shared {
    alignas(1024) unsigned char tile[16 << 10];
    Mbarrier full;
};
Launch one(int threads) { return {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)}; }

void barriers() {
    __syncthreads();
    __syncwarp();
}
void loads(const __grid_constant__ TensorMap map) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) mbarrier_init(memory.full, 1);
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(memory.full, 1024);
        tma_load(memory.tile, map, {0, 6}, memory.full);
    }
    mbarrier_wait(memory.full, 0);
    if (threadIdx.x == 0) {
        tma_store(map, {0, 0}, memory.tile);
        bulk_commit();
        bulk_wait_read<0>();
        bulk_wait<0>();
    }
}
void copies(const int* x) {
    cp_async<4>(shared<Shared>().tile + 4 * threadIdx.x, x + threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    std::uint32_t r[4];
    load_matrices(r, shared<Shared>().tile + 16 * threadIdx.x);
    store_matrices(r, shared<Shared>().tile + 16 * threadIdx.x);
}
void multiplies() {
    float d[32] = {};
    wgmma_fence();
    wgmma<bf16>(d, k_major(shared<Shared>().tile, Swizzle::bytes_128),
                k_major(shared<Shared>().tile + (8 << 10), Swizzle::bytes_128), false);
    wgmma_commit();
    wgmma_wait<0>();
}

}  // namespace

TEST_CASE("barriers tell who hands on and who takes up") {
    const Listener l = heard([] { launch("barriers", barriers, one(64)); });
    CHECK(l.releases == 128);
    CHECK(l.acquires == 128);
}

TEST_CASE("operations tell their bytes, their proxy, and who learns of their end") {
    alignas(128) static unsigned char tensor[8 * 128];
    const TensorMap map = matrix_map("tensor", reinterpret_cast<const bf16*>(tensor), 8, 64, 64, 8, 64,
                                     Swizzle::bytes_128);
    const Listener tma = heard([&] { launch("loads", loads, one(32), map); });
    REQUIRE(tma.operations.size() == 2);
    const auto& load = tma.operations[0];
    CHECK(load.through == simulator::Proxy::async);
    CHECK(load.read == 256);  // two rows; the rest of the box lies outside
    CHECK(load.written == 1024);
    CHECK(load.released == 1);
    const auto& store = tma.operations[1];
    CHECK(store.read == 1024);
    CHECK(store.written == 1024);
    CHECK(store.acquired_reads == 1);
    CHECK(store.acquired == 1);
    CHECK(tma.fences == 32);

    static int x[32];
    const int* const p = x;
    const Listener small = heard([&] { launch("copies", copies, one(32), p); });
    REQUIRE(small.operations.size() == 32);
    CHECK(small.operations[0].through == simulator::Proxy::generic);
    CHECK(small.operations[0].acquired == 1);
    CHECK(small.read == 32 * 16);
    CHECK(small.written == 32 * 16);

    const Listener wgmma = heard([] { launch("multiplies", multiplies, one(128)); });
    REQUIRE(wgmma.operations.size() == 4);  // one a warp
    for (const auto& o : wgmma.operations) {
        CHECK(o.what == "wgmma.mma_async");
        CHECK(o.threads == 32);
        CHECK(o.read == (16 + 64) * 32);
        CHECK(o.acquired == 32);
    }
}
