// Shows the conversions to tests/reference/test_conversions_ml_dtypes.py: for every upper half of a float32 and
// six lower halves (both ends, and around the middle) one record of 8 bytes on standard output.
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "reference/numerics/bfloat16.h"
#include "reference/numerics/float8.h"

int main() {
    for (std::uint32_t high = 0; high < 65536; ++high)
        for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
            const std::uint32_t bits = (high << 16) | low;
            const float x = std::bit_cast<float>(bits);
            const std::uint16_t bf16 = dsa::to_bfloat16(x).bits;
            unsigned char record[8];
            std::memcpy(record, &bits, 4);
            std::memcpy(record + 4, &bf16, 2);
            record[6] = dsa::to_e4m3(x).bits;
            record[7] = dsa::to_ue8m0_rounding_up(x).bits;
            std::fwrite(record, 1, sizeof record, stdout);
        }
}
