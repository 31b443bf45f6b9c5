// One wgmma on an image of shared memory: A and B lie in the image as a descriptor says. K is 32 bytes.
#pragma once

#include <type_traits>

#include "experiment.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/wgmma_f16.h"

namespace dsa::conformance {

struct Operand {
    int start, leading, stride;
    Swizzle swizzle;
};

inline constexpr int image_bytes = 40 << 10;
struct Image {
    alignas(1024) unsigned char bytes[image_bytes];
};

// Where D begins: another number for each element, so that what is added to can be seen.
__host__ __device__ inline float first_sum(int thread, int i) { return static_cast<float>(thread * 3 + i % 5); }

// A form as a number.
enum FormBits : int { plain = 0, a_mn_major = 1, b_mn_major = 2, minus_a = 4, minus_b = 8 };

// d: [128, N / 2], as the threads hold it. registers: A as four registers a thread; nullptr: from the image.
template <class T, int form_bits, int n>
__global__ void __launch_bounds__(128) one_product(const unsigned char* image, Operand a, Operand b,
                                                   const std::uint32_t* registers, bool add, float* d) {
    constexpr Form form{(form_bits & a_mn_major) != 0, (form_bits & b_mn_major) != 0, (form_bits & minus_a) != 0,
                        (form_bits & minus_b) != 0};
    Image& memory = shared<Image>();
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < image_bytes; i += 128) memory.bytes[i] = image[i];
    fence_proxy_async();
    __syncthreads();
    float sums[n / 2];
#pragma unroll
    for (int i = 0; i < n / 2; ++i) sums[i] = first_sum(thread, i);
    const Descriptor at_b = descriptor(memory.bytes + b.start, b.leading, b.stride, b.swizzle);
    if (registers != nullptr) {
        if constexpr (!form.a_is_mn_major) {
            std::uint32_t mine[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) mine[i] = registers[4 * thread + i];
            hold(sums);
            wgmma_fence();
            if constexpr (std::is_same_v<T, f16>)
                wgmma_f16(sums, mine, at_b, add);
            else
                wgmma<T, form>(sums, mine, at_b, add);
            wgmma_commit();
            wgmma_wait<0>();
        }
    } else if constexpr (!std::is_same_v<T, f16>) {
        hold(sums);
        wgmma_fence();
        wgmma<T, form>(sums, descriptor(memory.bytes + a.start, a.leading, a.stride, a.swizzle), at_b, add);
        wgmma_commit();
        wgmma_wait<0>();
    }
    hold(sums);
#pragma unroll
    for (int i = 0; i < n / 2; ++i) d[thread * (n / 2) + i] = sums[i];
}

// A matrix of whole numbers, [rows, K], and where its bytes go in the image.
template <class T>
class Matrix {
   public:
    static constexpr int depth = 32 / static_cast<int>(sizeof(T));  // K
    Matrix(int rows, std::uint32_t seed) : rows_(rows), numbers_(static_cast<std::size_t>(rows * depth)) {
        Whole whole(seed);
        for (int& x : numbers_) x = whole();
    }
    int at(int row, int k) const { return numbers_[static_cast<std::size_t>(row * depth + k)]; }

    // K-major: rows of `span` bytes after each other, of which this is the piece from byte `from`; without a swizzle,
    // blocks of 8 rows of 16 bytes, the second half of K behind all rows.
    Operand put_k_major(std::vector<unsigned char>& image, int start, Swizzle swizzle, int from = 0) const {
        const int span = span_of(swizzle);
        for (int row = 0; row < rows_; ++row)
            for (int k = 0; k < depth; ++k) {
                const int byte = k * static_cast<int>(sizeof(T));
                const int offset = swizzle == Swizzle::none ? byte / 16 * (rows_ * 16) + row * 16 + byte % 16
                                                            : row * span + from + byte;
                put(image, start, offset, swizzle, at(row, k));
            }
        return {start + from, swizzle == Swizzle::none ? rows_ * 16 : 16, 8 * span, swizzle};
    }
    // MN-major: panels of span / sizeof(T) rows; in a panel the rows' numbers of one k lie together. Without a
    // swizzle, blocks of 8 rows by 8 k: those of the next 8 rows follow, and then those of the next 8 k.
    Operand put_mn_major(std::vector<unsigned char>& image, int start, Swizzle swizzle) const {
        const int span = span_of(swizzle), wide = span / static_cast<int>(sizeof(T));
        const int panel = depth * span;
        for (int row = 0; row < rows_; ++row)
            for (int k = 0; k < depth; ++k) {
                const int within = row % wide * static_cast<int>(sizeof(T));
                const int offset = swizzle == Swizzle::none
                                       ? k / 8 * (rows_ * 16) + row / 8 * 128 + k % 8 * 16 + within
                                       : row / wide * panel + k * span + within;
                put(image, start, offset, swizzle, at(row, k));
            }
        if (swizzle == Swizzle::none) return {start, rows_ * 16, 128, swizzle};
        return {start, panel, 8 * span, swizzle};
    }
    // Four registers a thread, [128, 4]. PTX ISA, the figure of A's fragment.
    std::vector<std::uint32_t> registers() const {
        std::vector<std::uint32_t> all(512);
        for (int thread = 0; thread < 128; ++thread)
            for (int i = 0; i < 4; ++i) {
                unsigned char bytes[4];
                const int row = thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8;
                for (int j = 0; j < 4; ++j) {
                    const int byte = i / 2 * 16 + thread % 4 * 4 + j;
                    const T number = coded(at(row, byte / static_cast<int>(sizeof(T))));
                    std::memcpy(&bytes[j], reinterpret_cast<const unsigned char*>(&number) + byte % sizeof(T), 1);
                }
                std::memcpy(&all[static_cast<std::size_t>(4 * thread + i)], bytes, 4);
            }
        return all;
    }

   private:
    static T coded(int x) {
        if constexpr (std::is_same_v<T, f16>)
            return {f16_of(x)};
        else if constexpr (sizeof(T) == 2)
            return {bf16_of(x)};
        else
            return {e4m3_of(x)};
    }
    static void put(std::vector<unsigned char>& image, int start, int offset, Swizzle swizzle, int x) {
        const T number = coded(x);
        const auto at =
            static_cast<std::size_t>(start) + swizzled_offset(static_cast<std::uint32_t>(offset), swizzle);
        std::memcpy(&image.at(at), &number, sizeof number);
    }
    int rows_;
    std::vector<int> numbers_;
};

template <class T, int form, int n>
Bytes product_of(const std::vector<unsigned char>& image, Operand a, Operand b,
                 const std::vector<std::uint32_t>& registers, bool add) {
    const OnDevice<unsigned char> on_device(image);
    const OnDevice<std::uint32_t> held(registers);
    const OnDevice<float> d(std::size_t{128} * (n / 2));
    launch("one_product", one_product<T, form, n>, {.blocks = 1, .threads = 128, .shared_bytes = sizeof(Image)},
           static_cast<const unsigned char*>(on_device.data()), a, b,
           static_cast<const std::uint32_t*>(registers.empty() ? nullptr : held.data()), add, d.data());
    return d.bytes();
}

}  // namespace dsa::conformance
