// A warpgroup's matrix product on the tensor cores: D [64 x N] (+)= A [64 x K] B [K x N] with float32 sums, K = 16
// numbers of bf16 or 32 of e4m3: 32 bytes. B lies in shared memory, A there or in registers. PTX ISA,
// "wgmma.mma_async".
//
// Who holds what: warp w of the four has rows 16 w ... 16 w + 15; lane = 4 g + p.
//   d[4 j + 0], d[4 j + 1]  row g       columns 8 j + 2 p, 8 j + 2 p + 1
//   d[4 j + 2], d[4 j + 3]  row g + 8   the same
//   a[0] ... a[3]           the picture of hopper/mma.h: row g, row g + 8, then the row's last 16 bytes of both
//
// It is done later. Around it:
//
//     hold(d); wgmma_fence();       registers that the threads have used are handed to the tensor cores
//     wgmma<bf16>(d, a, b, true);   any number, also to the same d
//     wgmma_commit();               they are a group
//     wgmma_wait<0>();              until all groups but the last 0 are done
//     hold(d);                      the compiler, which knows nothing of the products, moves no use of d across this
//
// Only after the wait may d be used, and the operands' memory be written again.
// Operands in shared memory that threads wrote themselves need fence_proxy_async() first.
#pragma once

#include "optimized/hopper/descriptor.h"
#include "optimized/support/call.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/wgmma.h"
#else
#include "optimized/hopper/wgmma_ptx.h"
#endif

namespace dsa {

// (nvcc 13 cannot start a __global__ template with a parameter of this type: give kernels a number, and make the form
// of it inside.)
struct Form {
    bool a_is_mn_major = false;  // bf16 only, as is the next
    bool b_is_mn_major = false;
    bool negate_a = false;
    bool negate_b = false;
};

__device__ constexpr int wgmma_row(int thread, int i) {
    return thread / 32 % 4 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
}
__device__ constexpr int wgmma_column(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

// All 128 threads of the warpgroup come. T: bf16 or e4m3. half_n: N / 2, N one of 8, 16, 32, 48, 64, 96, 128, 192,
// 256. add: to what d holds; else to nothing.
template <class T, Form form = Form{}, int half_n>
__device__ void wgmma(float (&d)[half_n], Descriptor a, Descriptor b, bool add, Where where = Where::current());
template <class T, Form form = Form{}, int half_n>
__device__ void wgmma(float (&d)[half_n], const std::uint32_t (&a)[4], Descriptor b, bool add,
                      Where where = Where::current());
__device__ void wgmma_fence(Where where = Where::current());
__device__ void wgmma_commit(Where where = Where::current());
template <int kept>
__device__ void wgmma_wait(Where where = Where::current());
// Fence and wait do not name the accumulators; this does.
template <int half_n>
__device__ inline void hold([[maybe_unused]] float (&d)[half_n]) {
#if !defined(DSA_SIMULATOR)
#pragma unroll
    for (int i = 0; i < half_n; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

namespace detail {

template <class T, Form form, int half_n>
__device__ constexpr void check_form() {
    static_assert(sizeof(T) == 2 || !(form.a_is_mn_major || form.b_is_mn_major), "e4m3 operands are K-major");
    static_assert(half_n == 4 || half_n == 8 || half_n == 16 || half_n == 24 || half_n == 32 || half_n == 48 ||
                      half_n == 64 || half_n == 96 || half_n == 128,
                  "N is one of 8, 16, 32, 48, 64, 96, 128, 192, 256");
}

}  // namespace detail

#if defined(DSA_SIMULATOR)

template <class T, Form form, int half_n>
void wgmma(float (&d)[half_n], Descriptor a, Descriptor b, bool add, Where where) {
    detail::check_form<T, form, half_n>();
    simulator::products_of_this_block().multiply({2 * half_n, sizeof(T) == 1, nullptr, a, b, add, form.negate_a,
                                                  form.negate_b, form.a_is_mn_major, form.b_is_mn_major, d},
                                                 where);
}
template <class T, Form form, int half_n>
void wgmma(float (&d)[half_n], const std::uint32_t (&a)[4], Descriptor b, bool add, Where where) {
    detail::check_form<T, form, half_n>();
    simulator::products_of_this_block().multiply(
        {2 * half_n, sizeof(T) == 1, a, 0, b, add, form.negate_a, form.negate_b, false, form.b_is_mn_major, d},
        where);
}
inline void wgmma_fence(Where where) { simulator::products_of_this_block().fence(where); }
inline void wgmma_commit(Where where) { simulator::products_of_this_block().commit(where); }
template <int kept>
void wgmma_wait(Where where) {
    simulator::products_of_this_block().wait(kept, where);
}

#else

template <class T, Form form, int half_n>
__device__ inline void wgmma(float (&d)[half_n], Descriptor a, Descriptor b, bool add, Where) {
    detail::check_form<T, form, half_n>();
    const int p = add ? 1 : 0;
    constexpr int negate_a = form.negate_a ? -1 : 1, negate_b = form.negate_b ? -1 : 1;
    [[maybe_unused]] constexpr int trans_a = form.a_is_mn_major ? 1 : 0, trans_b = form.b_is_mn_major ? 1 : 0;
    if constexpr (sizeof(T) == 2) {
        DSA_WGMMA_OF_EACH_N(DSA_WGMMA_BF16_SHARED)
    } else {
        DSA_WGMMA_OF_EACH_N(DSA_WGMMA_E4M3_SHARED)
    }
}
template <class T, Form form, int half_n>
__device__ inline void wgmma(float (&d)[half_n], const std::uint32_t (&a)[4], Descriptor b, bool add, Where) {
    detail::check_form<T, form, half_n>();
    static_assert(!form.a_is_mn_major, "an operand in registers has its fragment's layout");
    const int p = add ? 1 : 0;
    constexpr int negate_a = form.negate_a ? -1 : 1, negate_b = form.negate_b ? -1 : 1;
    [[maybe_unused]] constexpr int trans_b = form.b_is_mn_major ? 1 : 0;
    if constexpr (sizeof(T) == 2) {
        DSA_WGMMA_OF_EACH_N(DSA_WGMMA_BF16_REGISTERS)
    } else {
        DSA_WGMMA_OF_EACH_N(DSA_WGMMA_E4M3_REGISTERS)
    }
}
__device__ inline void wgmma_fence(Where) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit(Where) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kept>
__device__ inline void wgmma_wait(Where) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kept) : "memory");
}

#endif

}  // namespace dsa
