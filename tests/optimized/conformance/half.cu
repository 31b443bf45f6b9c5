// f16: rounding to it, codes of e4m3 as pairs of it, packed products, bytes by turns. docs/20-the-simulator.md.
#include "experiment.h"
#include "optimized/hopper/half.h"

namespace dsa::conformance {
namespace {

// y: all 256 codes as pairs; then the numbers x rounded, two at once; then their products with each other.
__global__ void halves(const float* x, int count, std::uint32_t* y) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < 64; i += 32) {
        const auto first = static_cast<std::uint32_t>(4 * i);
        const std::uint32_t four = first | (first + 1) << 8 | (first + 2) << 16 | (first + 3) << 24;
        y[2 * i] = f16_pair_of_codes<0>(four);
        y[2 * i + 1] = f16_pair_of_codes<1>(four);
    }
    y += 128;
    for (int i = thread; i < count; i += 32) {
        const std::uint32_t mine = to_f16_pair(x[i], x[(i + 1) % count]);
        y[i] = mine;
        y[count + i] = multiply_f16_pairs(mine, to_f16_pair(x[(i + 7) % count], x[(i + 9) % count]));
    }
    y += 2 * count;
    if (thread == 0) {
        y[0] = low_bytes_by_turns(0x03020100U, 0x13121110U);
        y[1] = high_bytes_by_turns(0x03020100U, 0x13121110U);
    }
}

[[maybe_unused]] const Registered registered("halves", [] {
    // Ties to either side, subnormals and what is too small for them, the largest and what is too large.
    std::vector<float> x{0.0F,        -0.0F,        1.0F,         1.00048828125F, 1.00146484375F, -1.3F,
                         0x1p-14F,    0x1.ffcp-15F, 0x1.ffep-15F, 0x1p-24F,       0x1p-25F,       0x1.8p-25F,
                         -0x1.8p-24F, 0x1p-26F,     65504.0F,     65519.9F,       65520.0F,       -1e9F,
                         3e-5F,       448.0F,       0.3333F,      0x1.ffep0F,     0x1.fffp0F,     1e-30F};
    const OnDevice<float> in(x);
    const auto count = static_cast<int>(x.size());
    const OnDevice<std::uint32_t> out(std::size_t{128} + 2 * x.size() + 2);
    launch("halves", halves, {.blocks = 1, .threads = 32}, static_cast<const float*>(in.data()), count, out.data());
    return out.bytes();
});

}  // namespace
}  // namespace dsa::conformance
