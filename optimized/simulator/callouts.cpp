// What compiled kernels call at every load and store. Their sources are compiled with -fsanitize=thread, which makes
// g++ and clang++ call functions of these names; the definitions are ours, and the compilers' own library is not
// linked. Names and arguments: gcc/sanitizer.def of GCC, and llvm/lib/Transforms/Instrumentation/ThreadSanitizer.cpp.
#include <cstddef>
#include <cstdint>

#include "optimized/simulator/races.h"

namespace {

using dsa::simulator::Access;
using dsa::simulator::accessed;

}  // namespace

#define DSA_CALLER __builtin_return_address(0)
#define DSA_FUNCTION extern "C" __attribute__((visibility("default")))

#define DSA_ACCESSES(bytes)                                                                                       \
    DSA_FUNCTION void __tsan_read##bytes(void* at) { accessed(at, bytes, Access::read, DSA_CALLER); }             \
    DSA_FUNCTION void __tsan_write##bytes(void* at) { accessed(at, bytes, Access::write, DSA_CALLER); }           \
    DSA_FUNCTION void __tsan_volatile_read##bytes(void* at) { accessed(at, bytes, Access::read, DSA_CALLER); }    \
    DSA_FUNCTION void __tsan_volatile_write##bytes(void* at) { accessed(at, bytes, Access::write, DSA_CALLER); }  \
    DSA_FUNCTION void __tsan_unaligned_read##bytes(void* at) { accessed(at, bytes, Access::read, DSA_CALLER); }   \
    DSA_FUNCTION void __tsan_unaligned_write##bytes(void* at) { accessed(at, bytes, Access::write, DSA_CALLER); } \
    DSA_FUNCTION void __tsan_read_write##bytes(void* at) {                                                        \
        accessed(at, bytes, Access::read, DSA_CALLER);                                                            \
        accessed(at, bytes, Access::write, DSA_CALLER);                                                           \
    }                                                                                                             \
    DSA_FUNCTION void __tsan_unaligned_read_write##bytes(void* at) {                                              \
        accessed(at, bytes, Access::read, DSA_CALLER);                                                            \
        accessed(at, bytes, Access::write, DSA_CALLER);                                                           \
    }
DSA_ACCESSES(1)
DSA_ACCESSES(2)
DSA_ACCESSES(4)
DSA_ACCESSES(8)
DSA_ACCESSES(16)

DSA_FUNCTION void __tsan_read_range(void* at, std::size_t count) { accessed(at, count, Access::read, DSA_CALLER); }
DSA_FUNCTION void __tsan_write_range(void* at, std::size_t count) { accessed(at, count, Access::write, DSA_CALLER); }
DSA_FUNCTION void __tsan_vptr_read(void*) {}
DSA_FUNCTION void __tsan_vptr_update(void*, void*) {}
DSA_FUNCTION void __tsan_func_entry(void*) {}
DSA_FUNCTION void __tsan_func_exit(void*) {}
DSA_FUNCTION void __tsan_init() {}

// Atomic updates are no race among themselves, and put nothing in order.
#define DSA_UPDATE(bits, name)                                                                      \
    DSA_FUNCTION std::uint##bits##_t __tsan_atomic##bits##_##name(volatile std::uint##bits##_t* at, \
                                                                  std::uint##bits##_t value, int) { \
        accessed(const_cast<std::uint##bits##_t*>(at), bits / 8, Access::atomic, DSA_CALLER);       \
        return __atomic_##name(at, value, __ATOMIC_SEQ_CST);                                        \
    }
#define DSA_COMPARE(bits, name, weak)                                                                           \
    DSA_FUNCTION bool __tsan_atomic##bits##_compare_exchange_##name(                                            \
        volatile std::uint##bits##_t* at, std::uint##bits##_t* expected, std::uint##bits##_t value, int, int) { \
        accessed(const_cast<std::uint##bits##_t*>(at), bits / 8, Access::atomic, DSA_CALLER);                   \
        return __atomic_compare_exchange_n(at, expected, value, weak, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);      \
    }
#define DSA_ATOMICS(bits)                                                                                      \
    DSA_FUNCTION std::uint##bits##_t __tsan_atomic##bits##_load(const volatile std::uint##bits##_t* at, int) { \
        accessed(const_cast<std::uint##bits##_t*>(at), bits / 8, Access::atomic, DSA_CALLER);                  \
        return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                          \
    }                                                                                                          \
    DSA_FUNCTION void __tsan_atomic##bits##_store(volatile std::uint##bits##_t* at, std::uint##bits##_t value, \
                                                  int) {                                                       \
        accessed(const_cast<std::uint##bits##_t*>(at), bits / 8, Access::atomic, DSA_CALLER);                  \
        __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                         \
    }                                                                                                          \
    DSA_FUNCTION std::uint##bits##_t __tsan_atomic##bits##_exchange(volatile std::uint##bits##_t* at,          \
                                                                    std::uint##bits##_t value, int) {          \
        accessed(const_cast<std::uint##bits##_t*>(at), bits / 8, Access::atomic, DSA_CALLER);                  \
        return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                               \
    }                                                                                                          \
    DSA_UPDATE(bits, fetch_add)                                                                                \
    DSA_UPDATE(bits, fetch_sub)                                                                                \
    DSA_UPDATE(bits, fetch_and)                                                                                \
    DSA_UPDATE(bits, fetch_or)                                                                                 \
    DSA_UPDATE(bits, fetch_xor)                                                                                \
    DSA_COMPARE(bits, strong, false)                                                                           \
    DSA_COMPARE(bits, weak, true)                                                                              \
    DSA_FUNCTION std::uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(                               \
        volatile std::uint##bits##_t* at, std::uint##bits##_t expected, std::uint##bits##_t value, int, int) { \
        accessed(const_cast<std::uint##bits##_t*>(at), bits / 8, Access::atomic, DSA_CALLER);                  \
        __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);          \
        return expected;                                                                                       \
    }
DSA_ATOMICS(8)
DSA_ATOMICS(16)
DSA_ATOMICS(32)
DSA_ATOMICS(64)

DSA_FUNCTION void __tsan_atomic_thread_fence(int) {}
DSA_FUNCTION void __tsan_atomic_signal_fence(int) {}
