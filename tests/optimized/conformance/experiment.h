// The conformance program: each experiment is a kernel that shows what one instruction does, and its result is bytes.
// Built by nvcc and run on a GPU, and built for the simulator, the bytes must be the same. Inputs are whole numbers,
// so that every sum is exact and no rounding is asked about.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"
#include "optimized/tool/memory.h"

namespace dsa::conformance {

using Bytes = std::vector<std::byte>;

struct Experiment {
    std::string name;
    std::function<Bytes()> run;
};

inline std::vector<Experiment>& experiments() {
    static std::vector<Experiment> all;
    return all;
}

// An experiment registers itself by being a static object.
struct Registered {
    Registered(const std::string& name, std::function<Bytes()> run) {
        experiments().push_back({name, std::move(run)});
    }
};

// A vector that kernels can reach.
template <class T>
class OnDevice {
   public:
    explicit OnDevice(const std::vector<T>& values) : memory_(values.size() * sizeof(T)) {
        Bytes bytes(memory_.bytes());
        if (values.empty()) return;
        std::memcpy(bytes.data(), values.data(), bytes.size());
        memory_.write(bytes);
    }
    explicit OnDevice(std::size_t count) : OnDevice(std::vector<T>(count)) {}
    T* data() const { return static_cast<T*>(memory_.data()); }
    Bytes bytes() const {
        synchronise();
        return memory_.read();
    }

   private:
    DeviceMemory memory_;
};

template <class T>
std::vector<T> as(const Bytes& bytes) {
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

// Whole numbers from -3 to 3, the same every time.
class Whole {
   public:
    explicit Whole(std::uint32_t seed) : state_(seed * 2654435761U + 1) {}
    int operator()() {
        state_ = state_ * 1664525U + 1013904223U;
        return static_cast<int>(state_ >> 24) % 7 - 3;
    }

   private:
    std::uint32_t state_;
};

// Of a whole number from -16 to 16: as bf16, e4m3 and f16.
inline std::uint16_t bf16_of(int x) {
    const auto value = static_cast<float>(x);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<std::uint16_t>(bits >> 16);
}
inline std::uint8_t e4m3_of(int x) {
    const int magnitude = x < 0 ? -x : x;
    if (magnitude == 0) return 0;
    int e = 0;
    while (magnitude >> (e + 1) != 0) ++e;
    return static_cast<std::uint8_t>((x < 0 ? 0x80 : 0) | (e + 7) << 3 | ((magnitude << 3 >> e) & 7));
}

inline std::uint16_t f16_of(int x) {
    const int magnitude = x < 0 ? -x : x;
    if (magnitude == 0) return 0;
    int e = 0;
    while (magnitude >> (e + 1) != 0) ++e;
    return static_cast<std::uint16_t>((x < 0 ? 0x8000 : 0) | (e + 15) << 10 | ((magnitude << 10 >> e) & 0x3ff));
}

}  // namespace dsa::conformance
