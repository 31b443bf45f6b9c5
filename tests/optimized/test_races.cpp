// Does the simulator see what nothing puts in order? Each kind of finding, and the right code beside it.
#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"

namespace {

using namespace dsa;

struct Shared {
    float sums[32];
    int order[64];
    unsigned char bytes[64];
    int next;
};

// The sentence of the refusal that a launch ends with; empty if it does not.
template <class Kernel, class... Arguments>
std::string refusal_of(const Launch& how, Kernel kernel, Arguments... args) {
    try {
        launch("kernel", kernel, how, args...);
    } catch (const Refusal& refusal) {
        CHECK(refusal.status() == Status::launch_failed);
        return refusal.what();
    }
    return {};
}
template <class Kernel, class... Arguments>
std::string refusal_of(Kernel kernel, int threads, Arguments... args) {
    return refusal_of(Launch{.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)}, kernel, args...);
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

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

}  // namespace

TEST_CASE("a read after a write needs a barrier") {
    std::vector<int> y(64);
    CHECK(refusal_of(read_after_write<true>, 64, y.data()).empty());
    const std::string told = refusal_of(read_after_write<false>, 64, y.data());
    CAPTURE(told);
    CHECK(holds(told, "of shared memory, which block (0, 0, 0), thread "));
    CHECK(holds(told, "with no barrier of both between (__syncthreads, say)"));
    CHECK(holds(told, "test_races.cpp:4"));
    CHECK((holds(told, ": read after write") || holds(told, ": write after read")));
}

TEST_CASE("a write after a read needs a barrier") {
    std::vector<int> y(64);
    CHECK(refusal_of(write_after_read<true>, 64, y.data()).empty());
    const std::string told = refusal_of(write_after_read<false>, 64, y.data());
    CAPTURE(told);
    CHECK((holds(told, ": read after write") || holds(told, ": write after read")));
}

TEST_CASE("two writes need a barrier") {
    const std::string told = refusal_of(everybody_writes, 64, nullptr);
    CAPTURE(told);
    CHECK(holds(told, ": write after write"));
}

TEST_CASE("a shuffle orders no memory") {
    std::vector<int> y(32);
    CHECK(refusal_of(taken_by_lane_0<true>, 32, y.data()).empty());
    const std::string told = refusal_of(taken_by_lane_0<false>, 32, y.data());
    CAPTURE(told);
    CHECK(holds(told, "with no __syncwarp of both between (shuffles and votes order no memory)"));
}

TEST_CASE("neighbouring bytes are no race, and are told apart") {
    std::vector<int> y(64);
    CHECK(refusal_of(neighbouring_bytes, 64, y.data()).empty());
    CHECK(y[0] == 0x07060504);
    const std::string told = refusal_of(reads_three_of_four, 64, y.data());
    CAPTURE(told);
    CHECK(holds(told, "reads byte " + std::to_string(offsetof(Shared, bytes) + 3) +
                          " of shared memory, which nobody has written"));
}

TEST_CASE("atomic updates are no race among themselves, and order nothing") {
    std::vector<int> y(64);
    CHECK(refusal_of(counts<true>, 64, y.data()).empty());
    CHECK(y[0] == 64);
    const std::string told = refusal_of(counts<false>, 64, y.data());
    CAPTURE(told);
    CHECK(holds(told, "thread 5"));
}

TEST_CASE("shared memory ends where the launch said") {
    const std::string told = refusal_of(beyond_the_end, 32, nullptr);
    CAPTURE(told);
    CHECK(holds(told, " of shared memory; the kernel was launched with " + std::to_string(sizeof(Shared))));
}

TEST_CASE("blocks of a grid are in no order") {
    for (int run = 0; run < 3; ++run) {
        std::vector<int> y(65);
        const Launch how{.blocks = 8, .threads = 32};
        CHECK(refusal_of(how, every_block_adds<true>, y.data()).empty());
        CHECK(y[0] == 8);
        CHECK(holds(refusal_of(how, every_block_adds<false>, y.data()), "blocks of a grid are in no order"));
        CHECK(holds(refusal_of(how, blocks_read_and_one_writes, y.data()), "blocks of a grid are in no order"));
        std::vector<unsigned char> bytes(8 * 32);
        CHECK(refusal_of(how, neighbours_in_global_memory, bytes.data()).empty());
    }
}

TEST_CASE("threads of a block are in no order in global memory either") {
    std::vector<int> y(128);
    const std::string told = refusal_of(through_global_memory, 64, y.data());
    CAPTURE(told);
    CHECK(holds(told, "global memory at "));
    CHECK(holds(told, "with no barrier of both between"));
}

TEST_CASE("a barrier does not wait for who has returned, nor order what he did") {
    std::vector<int> y(64);
    CHECK(holds(refusal_of(who_has_returned, 64, y.data()), "thread 0 has written"));
}
