// Memory that kernels read and write: the GPU's, or the host's under the simulator. Each piece lies between guards of
// poison, which tell afterwards whether somebody wrote beyond it.
#pragma once

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(DSA_SIMULATOR)
#include "optimized/simulator/races.h"
#else
#include <cuda_runtime.h>
#endif

namespace dsa {

namespace detail {

inline void check([[maybe_unused]] int error, [[maybe_unused]] const std::string& what) {
#if !defined(DSA_SIMULATOR)
    if (error != cudaSuccess)
        throw std::runtime_error(what + ": " + cudaGetErrorString(static_cast<cudaError_t>(error)));
#endif
}

inline void copy(void* to, const void* from, std::size_t bytes) {
#if defined(DSA_SIMULATOR)
    std::memcpy(to, from, bytes);
#else
    check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "a copy of " + std::to_string(bytes) + " bytes failed");
#endif
}

}  // namespace detail

// Waits for all kernels; a failure of one of them is told here.
inline void synchronise() {
#if !defined(DSA_SIMULATOR)
    detail::check(cudaDeviceSynchronize(), "a kernel failed");
#endif
}

class DeviceMemory {
   public:
    static constexpr std::size_t guard = 4096;
    static constexpr unsigned char poison = 0xa5;

    explicit DeviceMemory(std::size_t bytes) : bytes_(bytes) {
        const std::size_t all = bytes + 2 * guard;
#if defined(DSA_SIMULATOR)
        begin_ = static_cast<std::byte*>(::operator new (all, std::align_val_t{guard}));
        std::memset(begin_, poison, all);
        simulator::put_off_limits(begin_, guard);
        simulator::put_off_limits(begin_ + guard + bytes, guard);
#else
        void* memory = nullptr;
        detail::check(cudaMalloc(&memory, all), "the GPU has no " + std::to_string(all) + " bytes of memory left");
        begin_ = static_cast<std::byte*>(memory);
        detail::check(cudaMemset(memory, poison, all), "memory could not be filled");
#endif
    }
    ~DeviceMemory() {
#if defined(DSA_SIMULATOR)
        simulator::allow_again(begin_);
        simulator::allow_again(begin_ + guard + bytes_);
        ::operator delete (begin_, std::align_val_t{guard});
#else
        cudaFree(begin_);
#endif
    }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void* data() const { return begin_ + guard; }
    std::size_t bytes() const { return bytes_; }
    void write(const std::vector<std::byte>& from) { detail::copy(data(), from.data(), from.size()); }
    std::vector<std::byte> read() const {
        std::vector<std::byte> to(bytes_);
        detail::copy(to.data(), data(), bytes_);
        return to;
    }
    // Poison again, as before the first use.
    void fill_with_poison() {
#if defined(DSA_SIMULATOR)
        std::memset(data(), poison, bytes_);
#else
        detail::check(cudaMemset(data(), poison, bytes_), "memory could not be filled");
#endif
    }
    bool guards_are_whole() const {
        std::vector<std::byte> edge(guard);
        for (const std::byte* at : {begin_, begin_ + guard + bytes_}) {
            detail::copy(edge.data(), at, guard);
            for (const std::byte b : edge)
                if (b != std::byte{poison}) return false;
        }
        return true;
    }

   private:
    std::size_t bytes_;
    std::byte* begin_ = nullptr;
};

}  // namespace dsa
