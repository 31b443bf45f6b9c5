// The small instructions: cp.async, bulk copies, ldmatrix and stmatrix, folds of a warp, shared memory of a cluster.
#include "experiment.h"
#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/matrix.h"
#include "optimized/hopper/warp.h"

namespace dsa::conformance {
namespace {

struct Bytes512 {
    alignas(16) unsigned char bytes[512];
    alignas(16) unsigned char others[512];
    Mbarrier full;
};

// Of each size, whole and cut; the mbarrier is told.
__global__ void copy_small(const unsigned char* x, unsigned char* y) {
    Bytes512& memory = shared<Bytes512>();
    const int lane = lane_id();
    if (lane == 0) mbarrier_init(memory.full, 32);
    for (int i = lane; i < 512; i += 32) memory.bytes[i] = 0x55;
    __syncwarp();
    cp_async<16>(memory.bytes + 16 * lane, x + 16 * lane, lane % 17);
    cp_async_arrive(memory.full);
    mbarrier_wait(memory.full, 0);
    for (int i = lane; i < 512; i += 32) y[i] = memory.bytes[i];
    __syncwarp();
    cp_async<8>(memory.bytes + 8 * lane, x + 8 * lane, lane % 9);
    cp_async_commit();
    cp_async<4>(memory.bytes + 256 + 4 * lane, x + 256 + 4 * lane, lane % 5);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    for (int i = lane; i < 512; i += 32) y[512 + i] = memory.bytes[i];
}

// Global to shared, to the neighbour's shared memory, and back to global memory.
__global__ void copy_in_bulk(const unsigned char* x, unsigned char* y) {
    Bytes512& memory = shared<Bytes512>();
    const int lane = lane_id();
    if (lane == 0) {
        mbarrier_init(memory.full, 1);
        fence_mbarrier_init();
    }
    cluster_sync();
    if (lane == 0) {
        mbarrier_arrive_expect(memory.full, 512);
        bulk_load(memory.bytes, x + 512 * blockIdx.x, 512, memory.full);
    }
    mbarrier_wait(memory.full, 0);
    if (lane == 0) mbarrier_arrive_expect(memory.full, 512);
    cluster_sync();
    if (lane == 0) bulk_send(memory.others, memory.bytes, 512, memory.full, 1 - cluster_rank());
    mbarrier_wait(memory.full, 1);
    if (lane == 0) {
        bulk_store(y + 512 * blockIdx.x, memory.others, 512);
        bulk_commit();
        bulk_wait<0>();
    }
    cluster_sync();
}

template <int count, bool transposed>
__global__ void move_matrices(const unsigned char* x, std::uint32_t* registers, unsigned char* y) {
    Bytes512& memory = shared<Bytes512>();
    const int lane = lane_id();
    for (int i = lane; i < 512; i += 32) memory.bytes[i] = x[i], memory.others[i] = 0;
    __syncwarp();
    std::uint32_t mine[count];
    load_matrices<transposed>(mine, memory.bytes + 16 * lane);
    for (int m = 0; m < count; ++m) registers[count * lane + m] = mine[m];
    store_matrices<!transposed>(mine, memory.others + 16 * lane);
    __syncwarp();
    for (int i = lane; i < 512; i += 32) y[i] = memory.others[i];
}

__global__ void fold(const int* x, int* y) {
    const int mine = x[threadIdx.x];
    const auto bits = static_cast<std::uint32_t>(mine);
    y[threadIdx.x] = redux_add(mine) ^ redux_min(mine) * 3 ^ redux_max(mine) * 5;
    y[32 + threadIdx.x] =
        static_cast<int>(redux_max(bits) ^ redux_and(bits | 7) ^ redux_or(bits) * 3 ^ redux_xor(bits));
    if (elect_one()) y[64] = 1;
}

// Warp 0 writes, one lane of it arrives for all, warp 1 waits and reads: __syncwarp orders the lanes' writes before
// the arrival. compute-sanitizer's racecheck calls this a race if it does not follow that.
__global__ void arrive_for_the_warp(const unsigned char* x, unsigned char* y) {
    Bytes512& memory = shared<Bytes512>();
    const int lane = lane_id();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        for (int i = lane; i < 512; i += 32) memory.bytes[i] = x[i];
        __syncwarp();
        if (lane == 0) mbarrier_arrive(memory.full);
    } else {
        mbarrier_wait(memory.full, 0);
        for (int i = lane; i < 512; i += 32) y[i] = memory.bytes[511 - i];
    }
}

std::vector<unsigned char> some_bytes(int count) {
    std::vector<unsigned char> bytes;
    for (int i = 0; i < count; ++i) bytes.push_back(static_cast<unsigned char>(i * 11 + i / 16 * 5 + 1));
    return bytes;
}

template <int count, bool transposed>
void add_matrices(const std::string& name) {
    experiments().push_back({name, [] {
                                 const OnDevice<unsigned char> x(some_bytes(512)), y(std::size_t{512});
                                 const OnDevice<std::uint32_t> registers(std::size_t{32} * count);
                                 launch("move_matrices", move_matrices<count, transposed>,
                                        {.blocks = 1, .threads = 32, .shared_bytes = sizeof(Bytes512)},
                                        static_cast<const unsigned char*>(x.data()), registers.data(), y.data());
                                 Bytes both = registers.bytes();
                                 const Bytes stored = y.bytes();
                                 both.insert(both.end(), stored.begin(), stored.end());
                                 return both;
                             }});
}

[[maybe_unused]] const bool registered = [] {
    add_matrices<1, false>("ldmatrix_1");
    add_matrices<2, false>("ldmatrix_2");
    add_matrices<4, false>("ldmatrix_4");
    add_matrices<1, true>("ldmatrix_1_transposed");
    add_matrices<2, true>("ldmatrix_2_transposed");
    add_matrices<4, true>("ldmatrix_4_transposed");
    experiments().push_back({"cp_async", [] {
                                 const OnDevice<unsigned char> x(some_bytes(512)), y(std::size_t{1024});
                                 launch("copy_small", copy_small,
                                        {.blocks = 1, .threads = 32, .shared_bytes = sizeof(Bytes512)},
                                        static_cast<const unsigned char*>(x.data()), y.data());
                                 return y.bytes();
                             }});
    experiments().push_back({"arrival_for_a_warp", [] {
                                 const OnDevice<unsigned char> x(some_bytes(512)), y(std::size_t{512});
                                 launch("arrive_for_the_warp", arrive_for_the_warp,
                                        {.blocks = 1, .threads = 64, .shared_bytes = sizeof(Bytes512)},
                                        static_cast<const unsigned char*>(x.data()), y.data());
                                 return y.bytes();
                             }});
    experiments().push_back({"bulk_copies", [] {
                                 const OnDevice<unsigned char> x(some_bytes(1024)), y(std::size_t{1024});
                                 launch("copy_in_bulk", copy_in_bulk,
                                        {.blocks = 2, .threads = 32, .shared_bytes = sizeof(Bytes512), .cluster = 2},
                                        static_cast<const unsigned char*>(x.data()), y.data());
                                 return y.bytes();
                             }});
    experiments().push_back({"redux", [] {
                                 std::vector<int> numbers;
                                 for (int i = 0; i < 32; ++i) numbers.push_back((i * 37 + 5) % 101 - 50);
                                 const OnDevice<int> x(numbers), y(std::size_t{65});
                                 launch("fold", fold, {.blocks = 1, .threads = 32}, static_cast<const int*>(x.data()),
                                        y.data());
                                 return y.bytes();
                             }});
    return true;
}();

}  // namespace
}  // namespace dsa::conformance
