// Where do a library's tensors lie? In the host's memory, or in a GPU's, reached through its driver and nothing else:
// the binding links to no CUDA, and loads libcuda.so.1 only for a library that wants device memory.
#pragma once

#include <cstddef>
#include <memory>

namespace dsa {

class Memory {
   public:
    virtual ~Memory() = default;
    // `bytes` at a multiple of 256.
    virtual void* allocate(std::size_t bytes) = 0;
    virtual void free(void* address) = 0;
    // Between any two places of the host and the device, in the order of the default stream.
    virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
    // Waits for all kernels; what went wrong in one of them is told here.
    virtual void synchronise() = 0;
};

Memory& host_memory();
Memory& device_memory();  // refused without a driver

// A piece of it, given back with its last owner.
class Buffer {
   public:
    Buffer(Memory& memory, std::size_t bytes) : memory_(memory), data_(memory.allocate(bytes)) {}
    ~Buffer() { memory_.free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    void* data() const { return data_; }

   private:
    Memory& memory_;
    void* data_;
};

}  // namespace dsa
