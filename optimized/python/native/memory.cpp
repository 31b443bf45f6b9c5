#include "optimized/python/native/memory.h"

#include <dlfcn.h>

#include <cstring>
#include <new>

#include "optimized/support/refusal.h"

namespace dsa {
namespace {

constexpr std::align_val_t alignment{256};

class Host : public Memory {
   public:
    void* allocate(std::size_t bytes) override { return ::operator new(bytes, alignment); }
    void free(void* address) override { ::operator delete(address, alignment); }
    void copy(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
    void synchronise() override {}  // functions of the host have returned when they return
};

// The CUDA driver API, in the context that the CUDA runtime uses too (the primary one of the first GPU). Types are
// those of cuda.h: CUdeviceptr is 64 bits, CUdevice an int, CUcontext a pointer.
class Device : public Memory {
   public:
    Device() : driver_(dlopen("libcuda.so.1", RTLD_NOW)) {
        if (driver_ == nullptr)
            refuse(Status::no_gpu,
                   "the library wants device memory, and this machine has no NVIDIA driver (libcuda.so.1): run it on "
                   "a machine with a GPU, or load libdsa_simulated.so");
        call("cuInit", 0U);
        int device = 0;
        void* context = nullptr;
        call("cuDeviceGet", &device, 0);
        call("cuDevicePrimaryCtxRetain", &context, device);
        call("cuCtxSetCurrent", context);
    }
    void* allocate(std::size_t bytes) override {
        unsigned long long address = 0;
        call("cuMemAlloc_v2", &address, bytes == 0 ? std::size_t{1} : bytes);
        return reinterpret_cast<void*>(address);
    }
    void free(void* address) override { function<unsigned long long>("cuMemFree_v2")(as_pointer(address)); }
    void copy(void* to, const void* from, std::size_t bytes) override {
        call("cuMemcpy", as_pointer(to), as_pointer(from), bytes);
    }
    void synchronise() override { call("cuCtxSynchronize"); }

   private:
    static unsigned long long as_pointer(const void* address) {
        return reinterpret_cast<unsigned long long>(address);
    }
    template <class... Parameters>
    using Function = int (*)(Parameters...);
    template <class... Parameters>
    Function<Parameters...> function(const char* name) {
        void* found = dlsym(driver_, name);
        if (found == nullptr) refuse(Status::no_gpu, "the GPU's driver has no function ", name);
        return reinterpret_cast<Function<Parameters...>>(found);
    }
    template <class... Parameters>
    void call(const char* name, Parameters... parameters) {
        if (const int error = function<Parameters...>(name)(parameters...); error != 0) {
            const char* text = "unknown";
            function<int, const char**>("cuGetErrorString")(error, &text);
            refuse(error == 2 ? Status::out_of_memory : Status::launch_failed, "the GPU's driver answered ", name,
                   " with error ", error, ", ", text);
        }
    }
    void* driver_;
};

}  // namespace

Memory& host_memory() {
    static Host host;
    return host;
}

Memory& device_memory() {
    static auto* device = new Device;  // never destroyed: arrays may outlive the module
    return *device;
}

}  // namespace dsa
