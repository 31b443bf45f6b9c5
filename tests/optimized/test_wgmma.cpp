// wgmma against sums made from the matrices themselves: every N, layout, sign; and what it must catch.
#include "conformance/wgmma.cu"
#include "kernels.h"
#include "optimized/hopper/matrix.h"

namespace {

using namespace dsa;
using namespace dsa::conformance;
using namespace dsa::testing;

template <class T>
void check_sums(const std::string& name, const std::vector<float>& d) {
    const int n = static_cast<int>(d.size()) / 64;
    const Matrix<T> a(64, 1), b(n, 2);
    const float sign = name.find("minus") != std::string::npos ? -1.0F : 1.0F;
    const bool add = name.find("not_added") == std::string::npos;
    for (int thread = 0; thread < 128; ++thread)
        for (int i = 0; i < n / 2; ++i) {
            int sum = 0;
            for (int k = 0; k < Matrix<T>::depth; ++k)
                sum += a.at(wgmma_row(thread, i), k) * b.at(wgmma_column(thread, i), k);
            const float expected = (add ? first_sum(thread, i) : 0.0F) + sign * static_cast<float>(sum);
            CAPTURE(name);
            CAPTURE(thread);
            CAPTURE(i);
            REQUIRE(d[static_cast<std::size_t>(thread * (n / 2) + i)] == expected);
        }
}

struct Tiles {
    alignas(1024) bf16 a[64 * 64];  // K-major, rows of 128 bytes
    alignas(1024) bf16 b[64 * 64];
};
Launch one(int threads = 128) { return {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Tiles)}; }

// A and B hold ones; what comes out depends on what is left out.
template <class Steps>
void with_tiles(Steps steps) {
    Tiles& memory = shared<Tiles>();
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += static_cast<int>(blockDim.x))
        memory.a[i] = memory.b[i] = to_bf16(1.0F);
    fence_proxy_async();
    __syncthreads();
    float d[32] = {};
    steps(d, k_major(memory.a, Swizzle::bytes_128), k_major(memory.b, Swizzle::bytes_128));
}

void read_too_early(float* y) {
    with_tiles([&](float(&d)[32], Descriptor a, Descriptor b) {
        wgmma_fence();
        wgmma<bf16>(d, a, b, true);
        wgmma_commit();
        y[threadIdx.x] = d[0];
        wgmma_wait<0>();
        y[128 + threadIdx.x] = d[0];
    });
}
// Two groups: the first is waited for, of other accumulators than the second.
void one_of_two_groups(float* y) {
    with_tiles([&](float(&d)[32], Descriptor a, Descriptor b) {
        float e[32] = {};
        wgmma_fence();
        wgmma<bf16>(d, a, b, false);
        wgmma<bf16>(d, advanced(a, 32), advanced(b, 32), true);
        wgmma_commit();
        wgmma<bf16>(e, a, b, false);
        wgmma_commit();
        wgmma_wait<1>();
        y[threadIdx.x] = d[5];
        wgmma_wait<0>();
        y[128 + threadIdx.x] = e[5];
    });
}
// B is written again while the product is under way.
void memory_reused(float* y) {
    with_tiles([&](float(&d)[32], Descriptor a, Descriptor b) {
        wgmma_fence();
        wgmma<bf16>(d, a, b, false);
        wgmma_commit();
        __syncthreads();  // all four warps have begun theirs
        shared<Tiles>().b[threadIdx.x] = to_bf16(2.0F);
        wgmma_wait<0>();
        y[threadIdx.x] = d[0];
    });
}
void without_fence() {
    with_tiles([](float(&d)[32], Descriptor a, Descriptor b) { wgmma<bf16>(d, a, b, true); });
}
void without_wait() {
    with_tiles([](float(&d)[32], Descriptor a, Descriptor b) {
        wgmma_fence();
        wgmma<bf16>(d, a, b, true);
        wgmma_commit();
        for (int i = 0; i < 1000; ++i) __syncwarp();
    });
}
void writes_accumulators() {
    with_tiles([](float(&d)[32], Descriptor a, Descriptor b) {
        wgmma_fence();
        wgmma<bf16>(d, a, b, true);
        wgmma_commit();
        d[3] = 1.0F;
        wgmma_wait<0>();
    });
}
void three_warps() {
    with_tiles([](float(&d)[32], Descriptor a, Descriptor b) {
        if (warp_id() == 3) return;
        wgmma_fence();
        wgmma<bf16>(d, a, b, true);
        wgmma_commit();
        wgmma_wait<0>();
    });
}
void half_a_warp() {
    with_tiles([](float(&d)[32], Descriptor a, Descriptor b) {
        if (lane_id() < 16) return;
        wgmma_fence();
        wgmma<bf16>(d, a, b, true);
    });
}
void other_descriptors() {
    with_tiles([](float(&d)[32], Descriptor a, Descriptor b) {
        wgmma_fence();
        wgmma<bf16>(d, a, warp_id() == 2 ? advanced(b, 32) : b, true);
        wgmma_commit();
        wgmma_wait<0>();
    });
}
void beyond_the_end() {
    with_tiles([](float(&d)[32], Descriptor a, Descriptor) {
        wgmma_fence();
        wgmma<bf16>(d, a, k_major(&shared<Tiles>().b[64 * 32], Swizzle::bytes_128), true);
    });
}
void inside_a_pattern() {
    with_tiles([](float(&d)[32], Descriptor a, Descriptor) {
        wgmma_fence();
        wgmma<bf16>(d, a, k_major(&shared<Tiles>().b[64], Swizzle::bytes_128), true);
    });
}
void odd_start() {
    with_tiles([](float(&)[32], Descriptor, Descriptor) { k_major(&shared<Tiles>().b[1], Swizzle::bytes_128); });
}

// Registers through memory and back: what stmatrix writes, ldmatrix reads, straight and transposed.
void matrices(std::uint16_t* y) {
    auto& memory = shared<std::uint16_t[4 * 64]>();
    const int lane = lane_id();
    for (int i = 0; i < 8; ++i) memory[8 * lane + i] = static_cast<std::uint16_t>(8 * lane + i);
    __syncwarp();
    std::uint32_t four[4], two[2], one_register[1];
    load_matrices(four, &memory[8 * lane]);
    load_matrices<true>(two, &memory[8 * (lane % 16)]);
    load_matrices<true>(one_register, &memory[8 * (lane % 8)]);
    for (int m = 0; m < 4; ++m) std::memcpy(y + 64 * m + 2 * lane, &four[m], 4);
    for (int m = 0; m < 2; ++m) std::memcpy(y + 256 + 64 * m + 2 * lane, &two[m], 4);
    std::memcpy(y + 384 + 2 * lane, one_register, 4);
    __syncwarp();
    store_matrices<true>(four, &memory[8 * lane]);
    __syncwarp();
    for (int i = 0; i < 8; ++i) y[448 + 8 * lane + i] = memory[8 * lane + i];
}

}  // namespace

TEST_CASE("wgmma multiplies as the matrices say, whatever their layout") {
    for (const Experiment& e : experiments()) {
        const Bytes bytes = e.run();
        if (e.name.find("e4m3") != std::string::npos)
            check_sums<e4m3>(e.name, as<float>(bytes));
        else
            check_sums<bf16>(e.name, as<float>(bytes));
    }
    CHECK(experiments().size() > 40);
}

TEST_CASE("products are late: who does not wait finds no number") {
    bool changed = false;
    with_seeds(10, [&] {
        float y[256];
        launch("early", read_too_early, one(), y);
        for (int i = 0; i < 128; ++i) {
            REQUIRE(std::isnan(y[i]));
            REQUIRE(y[128 + i] == 16.0F);
        }
        launch("groups", one_of_two_groups, one(), y);
        for (int i = 0; i < 128; ++i) {
            REQUIRE(y[i] == 32.0F);
            REQUIRE(y[128 + i] == 16.0F);
        }
        const Unchecked unchecked;
        launch("reused", memory_reused, one(), y);
        for (int i = 0; i < 128; ++i) changed = changed || y[i] != 16.0F;
    });
    CHECK(changed);
}

TEST_CASE("wgmma: misuse is a sentence") {
    CHECK(holds(refusal_of(without_fence, one()), "wgmma needs wgmma.fence before it"));
    CHECK(holds(refusal_of(without_wait, one()), "was never waited for (wgmma.wait_group)"));
    CHECK(holds(refusal_of(writes_accumulators, one()), "accumulator 3 of the wgmma at test_wgmma.cpp:"));
    CHECK(holds(refusal_of(three_warps, one()), "have issued different numbers of wgmma: 1, 1, 1, 0."));
    CHECK(holds(refusal_of(half_a_warp, one()), "wgmma.fence waits for lane"));
    CHECK(holds(refusal_of(other_descriptors, one()), "must be the same in all four"));
    CHECK(holds(refusal_of(beyond_the_end, one()), "wgmma's descriptor of B leads to byte 16384 of shared memory"));
    CHECK(holds(refusal_of(inside_a_pattern, one()), "it must start in the pattern's first row"));
    CHECK(holds(refusal_of(odd_start, one()), "at multiples of 16 bytes"));
    CHECK(holds(refusal_of(without_fence, one(96)), "is a warpgroup's: 128 threads"));
}

TEST_CASE("ldmatrix and stmatrix") {
    std::vector<std::uint16_t> y(704);
    launch("matrices", matrices, {.blocks = 1, .threads = 32, .shared_bytes = 512}, y.data());
    for (int m = 0; m < 4; ++m)
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 2; ++i) {
                const int g = lane / 4, p = lane % 4;
                const int straight = 64 * m + 8 * g + 2 * p + i, across = 8 * (2 * p + i) + g;
                const auto at = static_cast<std::size_t>(64 * m + 2 * lane + i);
                REQUIRE(y[at] == straight);
                if (m < 2) REQUIRE(y[256 + at] == 64 * m + across);
                if (m < 1) REQUIRE(y[384 + at] == across);
                // Straight registers stored transposed: row and column change places.
                REQUIRE(y[448 + static_cast<std::size_t>(64 * m + across)] == straight);
            }
}
