// Our conversions against the host conversions of CUDA's own headers, on every boundary. Needs the headers
// only: no nvcc, no GPU.
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <doctest/doctest.h>

#include "reference/numerics/bfloat16.h"
#include "reference/numerics/philox.h"
#include "tests/reference/boundaries.h"

using namespace dsa;

namespace {

std::uint16_t cuda_bf16(float x) { return static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(x)).x; }
std::uint8_t cuda_e4m3(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }

}  // namespace

TEST_CASE("bf16 agrees with CUDA on every value, midpoint and neighbour") {
    for (std::uint32_t high = 0; high < 65536; ++high)
        for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
            const float x = from_bits((high << 16) | low);
            CHECK_MESSAGE(to_bfloat16(x).bits == cuda_bf16(x), x);
        }
}

TEST_CASE("e4m3 agrees with CUDA on every boundary and on random patterns") {
    const auto check = [](float x) {
        const int ours = to_e4m3(x).bits;
        const int theirs = cuda_e4m3(x);
        // NaN has no sign to agree on.
        CHECK_MESSAGE((std::isnan(x) ? (ours & 0x7f) == 0x7f && (theirs & 0x7f) == 0x7f : ours == theirs), x);
    };
    for_e4m3_boundaries(check);
    const RandomTensor random{43, 1};
    for (std::uint64_t i = 0; i < 500000; ++i) check(from_bits(random.block(i)[0]));
    check(INFINITY);
    check(-INFINITY);
    for (int bits = 0; bits < 256; ++bits) {
        const float ours = to_float(float8_e4m3{static_cast<std::uint8_t>(bits)});
        const __half_raw raw = __nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(bits), __NV_E4M3);
        const float theirs = __half2float(__half(raw));
        CHECK((std::isnan(ours) ? std::isnan(theirs) : ours == theirs));
    }
}

TEST_CASE("ue8m0 rounding up agrees with CUDA at and beside every power of two") {
    for (int bits = 0; bits < 255; ++bits) {
        const float power = to_float(float8_ue8m0{static_cast<std::uint8_t>(bits)});
        for (const float x : {power, std::nextafter(power, INFINITY), std::nextafter(power, 0.0F), power * 1.5F}) {
            if (!std::isfinite(x) || x == 0.0F) continue;
            CHECK_MESSAGE(to_ue8m0_rounding_up(x).bits == __nv_cvt_float_to_e8m0(x, __NV_SATFINITE, cudaRoundPosInf),
                          x);
        }
    }
}
