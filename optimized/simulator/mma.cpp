#include "optimized/simulator/mma.h"

#include <cstring>

namespace dsa::simulator {
namespace {

struct Operands {
    float* c;
    const std::uint32_t* a;
    const std::uint32_t* b;
};

template <class T>
void multiply_all(const std::uint64_t (&lanes)[32]) {
    constexpr int rows = 16, columns = 8, bytes = 32;
    constexpr int count = bytes / static_cast<int>(sizeof(T));  // K
    unsigned char raw_a[rows][bytes], raw_b[columns][bytes];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& mine = *reinterpret_cast<const Operands*>(lanes[lane]);
        const int g = lane / 4, at = lane % 4 * 4;
        for (int half = 0; half < 2; ++half) {
            std::memcpy(&raw_a[g][at + 16 * half], &mine.a[2 * half], 4);
            std::memcpy(&raw_a[g + 8][at + 16 * half], &mine.a[2 * half + 1], 4);
            std::memcpy(&raw_b[g][at + 16 * half], &mine.b[half], 4);
        }
    }
    double a[rows][count], b[columns][count];
    for (int k = 0; k < count; ++k) {
        for (int i = 0; i < rows; ++i) a[i][k] = number_at(raw_a[i], k, T{});
        for (int j = 0; j < columns; ++j) b[j][k] = number_at(raw_b[j], k, T{});
    }
    for (int lane = 0; lane < 32; ++lane) {
        float* c = reinterpret_cast<const Operands*>(lanes[lane])->c;
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = c[i];
            for (int k = 0; k < count; ++k) sum += a[row][k] * b[column][k];
            c[i] = static_cast<float>(sum);
        }
    }
}

}  // namespace

template <class T>
void multiply(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const char* what,
              Where where) {
    const Operands mine{c, a, b};
    constexpr std::uint32_t all = 0xffffffffU;
    this_thread().block->exchange(all, reinterpret_cast<std::uint64_t>(&mine), what, where, multiply_all<T>);
}

template void multiply<bf16>(float (&)[4], const std::uint32_t (&)[4], const std::uint32_t (&)[2], const char*,
                             Where);
template void multiply<e4m3>(float (&)[4], const std::uint32_t (&)[4], const std::uint32_t (&)[2], const char*,
                             Where);

}  // namespace dsa::simulator
