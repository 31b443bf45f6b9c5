// What a warp does together beside shuffles and votes. PTX ISA, "elect.sync", "redux.sync".
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

// True in one lane, always the same one, of a warp whose 32 lanes all come. Which one is not said.
__device__ bool elect_one(Where where = Where::current());

// The fold of all lanes' numbers, to every lane. T: std::uint32_t or std::int32_t.
template <class T>
__device__ T redux_add(T value, Where where = Where::current());
template <class T>
__device__ T redux_min(T value, Where where = Where::current());
template <class T>
__device__ T redux_max(T value, Where where = Where::current());
__device__ std::uint32_t redux_and(std::uint32_t value, Where where = Where::current());
__device__ std::uint32_t redux_or(std::uint32_t value, Where where = Where::current());
__device__ std::uint32_t redux_xor(std::uint32_t value, Where where = Where::current());

#if defined(DSA_SIMULATOR)

namespace simulator {

template <class T, class Fold>
T redux(T value, const char* what, Where where, Fold fold) {
    static_assert(sizeof(T) == 4 && std::is_integral_v<T>, "redux.sync folds integers of 32 bits");
    Thread& self = this_thread();
    self.block->exchange(all_lanes, static_cast<std::uint32_t>(value), what, where);
    T result = static_cast<T>(self.received[0]);
    for (int lane = 1; lane < 32; ++lane) result = fold(result, static_cast<T>(self.received[lane]));
    return result;
}

}  // namespace simulator

inline bool elect_one(Where where) {
    const simulator::Thread& self = simulator::this_thread();
    self.block->exchange(all_lanes, 0, "elect.sync", where);
    return self.lane() == self.block->cluster().elected_lane;
}
template <class T>
T redux_add(T value, Where where) {
    return simulator::redux(value, "redux.sync.add", where, [](T a, T b) {
        return static_cast<T>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
    });
}
template <class T>
T redux_min(T value, Where where) {
    return simulator::redux(value, "redux.sync.min", where, [](T a, T b) { return b < a ? b : a; });
}
template <class T>
T redux_max(T value, Where where) {
    return simulator::redux(value, "redux.sync.max", where, [](T a, T b) { return a < b ? b : a; });
}
inline std::uint32_t redux_and(std::uint32_t value, Where where) {
    return simulator::redux(value, "redux.sync.and", where, [](std::uint32_t a, std::uint32_t b) { return a & b; });
}
inline std::uint32_t redux_or(std::uint32_t value, Where where) {
    return simulator::redux(value, "redux.sync.or", where, [](std::uint32_t a, std::uint32_t b) { return a | b; });
}
inline std::uint32_t redux_xor(std::uint32_t value, Where where) {
    return simulator::redux(value, "redux.sync.xor", where, [](std::uint32_t a, std::uint32_t b) { return a ^ b; });
}

#else

__device__ inline bool elect_one(Where) {
    std::uint32_t elected;
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.b32 %0, 1, 0, p; }" : "=r"(elected));
    return elected != 0;
}
// CUDA's own words for redux.sync, which exist for both signs.
template <class T>
__device__ inline T redux_add(T value, Where) {
    return __reduce_add_sync(all_lanes, value);
}
template <class T>
__device__ inline T redux_min(T value, Where) {
    return __reduce_min_sync(all_lanes, value);
}
template <class T>
__device__ inline T redux_max(T value, Where) {
    return __reduce_max_sync(all_lanes, value);
}
__device__ inline std::uint32_t redux_and(std::uint32_t value, Where) { return __reduce_and_sync(all_lanes, value); }
__device__ inline std::uint32_t redux_or(std::uint32_t value, Where) { return __reduce_or_sync(all_lanes, value); }
__device__ inline std::uint32_t redux_xor(std::uint32_t value, Where) { return __reduce_xor_sync(all_lanes, value); }

#endif

}  // namespace dsa
