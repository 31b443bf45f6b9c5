// Does the simulator do what the hardware does, and does it catch what the hardware would not forgive?
#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "optimized/hopper/numbers.h"
#include "optimized/simulator/order.h"
#include "optimized/support/launch.h"

namespace {

using namespace dsa;

struct Shared {
    float sums[32];
    int order[64];
    int next;
};

// The sentence of the refusal that a launch ends with; empty if it does not.
template <class Kernel, class... Arguments>
std::string refusal_of(Kernel kernel, int threads, Arguments... args) {
    try {
        launch("kernel", kernel, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)}, args...);
    } catch (const Refusal& refusal) {
        CHECK(refusal.status() == Status::launch_failed);
        return refusal.what();
    }
    return {};
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void sums_of_blocks(const int* x, int* y) {
    Shared& memory = shared<Shared>();
    const auto value = static_cast<float>(x[blockIdx.x * blockDim.x + threadIdx.x]);
    const float sum = over_block(value, memory.sums, Sum());
    if (threadIdx.x == blockDim.x - 1) y[blockIdx.x] = static_cast<int>(sum);
}

void shuffles(int* y) {
    const int lane = lane_id();
    y[0 * 32 + lane] = __shfl_sync(all_lanes, lane, 5);
    y[1 * 32 + lane] = __shfl_down_sync(all_lanes, lane, 3U);
    y[2 * 32 + lane] = __shfl_up_sync(all_lanes, lane, 3U);
    y[3 * 32 + lane] = __shfl_xor_sync(all_lanes, lane, 16);
    y[4 * 32 + lane] = static_cast<int>(__ballot_sync(all_lanes, lane % 2 == 0));
    if (lane < 8) y[5 * 32 + lane] = __shfl_sync(0xffU, lane, 7);
}

// The upper warp waits for lanes that wait at another place.
void crossed_waits() {
    if (threadIdx.x % 32 < 16)
        __syncthreads();
    else
        __syncwarp();
}

void lane_not_in_mask() { __shfl_sync(0xffffU, 1, 0); }

void lane_that_has_returned() {
    if (threadIdx.x == 3) return;
    __syncthreads();
    __shfl_sync(all_lanes, 1, 0);
}

void reads_what_nobody_wrote(float* y) { *y = shared<Shared>().sums[7]; }

void order_of_turns(int* y) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) memory.next = 0;
    __syncthreads();
    y[memory.next++] = static_cast<int>(threadIdx.x);
}

void uses_too_much_shared_memory() { shared<std::array<char, sizeof(Shared) + 1>>()[0] = 1; }

}  // namespace

TEST_CASE("blocks add up, whichever thread comes first") {
    constexpr int blocks = 9;
    constexpr int threads = 96;
    std::vector<int> x(blocks * threads);
    std::iota(x.begin(), x.end(), 1);
    std::vector<int> y(blocks, -1);
    launch("sums", sums_of_blocks, {.blocks = blocks, .threads = threads, .shared_bytes = sizeof(Shared)}, x.data(),
           y.data());
    for (int b = 0; b < blocks; ++b) {
        const int first = b * threads + 1;
        CHECK(y[static_cast<std::size_t>(b)] == threads * first + threads * (threads - 1) / 2);
    }
}

TEST_CASE("shuffles and votes bring what PTX says") {
    std::vector<int> y(6 * 32, -1);
    launch("shuffles", shuffles, {.blocks = 1, .threads = 32}, y.data());
    for (int lane = 0; lane < 32; ++lane) {
        const auto at = [&](int row) { return y[static_cast<std::size_t>(row * 32 + lane)]; };
        CHECK(at(0) == 5);
        CHECK(at(1) == (lane + 3 < 32 ? lane + 3 : lane));
        CHECK(at(2) == (lane >= 3 ? lane - 3 : lane));
        CHECK(at(3) == (lane ^ 16));
        CHECK(at(4) == 0x55555555);
        CHECK(at(5) == (lane < 8 ? 7 : -1));
    }
}

TEST_CASE("a deadlock is told with who waits where") {
    const std::string told = refusal_of(crossed_waits, 32);
    CHECK(holds(told, "is deadlocked"));
    CHECK(holds(told, "16 threads wait at __syncthreads at test_simulator.cpp:"));
    CHECK(holds(told, "16 threads wait at __syncwarp at test_simulator.cpp:"));
}

TEST_CASE("a collective that cannot be is a fault with its place") {
    CHECK(holds(refusal_of(lane_not_in_mask, 32), "which its mask does not name"));
    CHECK(holds(refusal_of(lane_that_has_returned, 32), "waits for lane 3, which has returned"));
    CHECK(holds(refusal_of(uses_too_much_shared_memory, 32), "bytes of shared memory; it was launched with"));
}

TEST_CASE("a kernel that throws ends its launch") {
    const auto throws = +[]() {
        __syncthreads();
        if (threadIdx.x == 5) throw simulator::Fault("as planned");
        __syncthreads();
    };
    CHECK(holds(refusal_of(throws, 64), "as planned"));
}

TEST_CASE("shared memory that nobody wrote is not a number") {
    simulator::Order* const checks = simulator::listen(nullptr);
    float y = 0.0F;
    CHECK(refusal_of(reads_what_nobody_wrote, 32, &y).empty());
    CHECK(std::isnan(y));
    simulator::listen(checks);
}

TEST_CASE("the schedule follows its seed") {
    simulator::Order* const checks = simulator::listen(nullptr);  // the turns show by a race
    const auto turns = [](const char* seed) {
        setenv("DSA_SIMULATOR_SEED", seed, 1);
        std::vector<int> y(64);
        launch("order", order_of_turns, {.blocks = 1, .threads = 64, .shared_bytes = sizeof(Shared)}, y.data());
        unsetenv("DSA_SIMULATOR_SEED");
        return y;
    };
    const std::vector<int> first = turns("1");
    CHECK(first == turns("1"));
    CHECK(first != turns("2"));
    std::vector<int> sorted = first;
    std::sort(sorted.begin(), sorted.end());
    for (int i = 0; i < 64; ++i) CHECK(sorted[static_cast<std::size_t>(i)] == i);
    simulator::listen(checks);
}

TEST_CASE("e4m3: every code survives, neighbours round to even, everything beyond saturates") {
    for (int code = 0; code < 256; ++code) {
        const e4m3 x{static_cast<std::uint8_t>(code)};
        if ((code & 0x7f) == 0x7f) {
            CHECK(std::isnan(to_float(x)));
            continue;
        }
        CHECK(to_e4m3(to_float(x)).bits == code);
        if ((code & 0x7f) == 0x7e) continue;
        const e4m3 next{static_cast<std::uint8_t>(code + 1)};
        const float middle = (to_float(x) + to_float(next)) / 2.0F;  // exact: 5 bits
        CHECK(to_e4m3(middle).bits == (code % 2 == 0 ? x : next).bits);
        CHECK(to_e4m3(std::nextafter(middle, to_float(x))).bits == x.bits);
        CHECK(to_e4m3(std::nextafter(middle, to_float(next))).bits == next.bits);
    }
    CHECK(to_e4m3(449.0F).bits == 0x7e);
    CHECK(to_e4m3(1e30F).bits == 0x7e);
    CHECK(to_e4m3(-std::numeric_limits<float>::infinity()).bits == 0xfe);
    CHECK(to_e4m3(std::nanf("")).bits == 0x7f);
}

TEST_CASE("bf16: every code survives, neighbours round to even, NaN is the canonical one") {
    for (std::uint32_t code = 0; code < 0x10000; ++code) {
        const bf16 x{static_cast<std::uint16_t>(code)};
        const float value = to_float(x);
        if (std::isnan(value)) {
            REQUIRE(to_bf16(value).bits == 0x7fff);
            continue;
        }
        REQUIRE(to_bf16(value).bits == code);
        if (std::isinf(value)) continue;
        const float middle = __uint_as_float(code << 16 | 0x8000U);
        REQUIRE(to_bf16(middle).bits == (code % 2 == 0 ? code : code + 1));
        REQUIRE(to_bf16(__uint_as_float(code << 16 | 0x7fffU)).bits == code);
        REQUIRE(to_bf16(__uint_as_float(code << 16 | 0x8001U)).bits == code + 1);
    }
}
