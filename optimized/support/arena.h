// The scratch of a layer, laid out in its workspace piece by piece. The same code measures it and hands it out: an
// Arena without memory hands out null and counts.
#pragma once

#include <cstdint>

namespace dsa {

class Arena {
   public:
    Arena() = default;
    explicit Arena(void* begin) : begin_(static_cast<unsigned char*>(begin)) {}

    // `count` elements that begin at a multiple of 256 bytes.
    template <class T>
    T* take(std::int64_t count) {
        unsigned char* at = begin_ == nullptr ? nullptr : begin_ + bytes_;
        constexpr std::int64_t alignment = 256;
        bytes_ += (count * static_cast<std::int64_t>(sizeof(T)) + alignment - 1) / alignment * alignment;
        return reinterpret_cast<T*>(at);
    }
    std::int64_t bytes() const { return bytes_; }

   private:
    unsigned char* begin_ = nullptr;
    std::int64_t bytes_ = 0;
};

}  // namespace dsa
