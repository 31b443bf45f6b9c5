#include "optimized/support/ladder.h"

#include <cstdlib>
#include <new>

#if !defined(DSA_SIMULATOR)
#include <cuda_runtime.h>
#endif

namespace dsa {
namespace {

// DSA_LEVEL: for whoever loads the library and cannot call choose_level, such as `touchstone check --lib`.
int level_of_the_environment() {
    const char* text = std::getenv("DSA_LEVEL");
    return text == nullptr ? 0 : std::atoi(text);
}

thread_local int level = level_of_the_environment();
thread_local std::string last_error;  // of this thread

int told(const Refusal& refusal) {
    last_error = refusal.what();
    return static_cast<int>(refusal.status());
}

}  // namespace

int chosen_level() { return level; }
void choose_level(int number) { level = number; }

std::vector<LadderEntry>& all_ladders() {
    static std::vector<LadderEntry> all;
    return all;
}

int detail::answered(void (*body)(void*), void* what) noexcept {
    try {
        last_error.clear();
        require_device();
        body(what);
        return static_cast<int>(Status::done);
    } catch (const Refusal& refusal) {
        return told(refusal);
    } catch (const std::bad_alloc&) {
        return told(Refusal(Status::out_of_memory, "the host has too little memory for this call"));
    } catch (const std::exception& error) {
        return told(Refusal(Status::bad_argument, error.what()));
    }
}

void require_device() {
#if !defined(DSA_SIMULATOR)
    int device = 0;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess)
        refuse(Status::no_gpu, "this needs an NVIDIA GPU of compute capability 9.0 and its driver; there is none (",
               cudaGetErrorString(error), "): run it where there is one, or use the simulator");
    int major = 0;
    int minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (major != 9 || minor != 0)
        refuse(Status::wrong_architecture, "these kernels are built for compute capability 9.0 (Hopper); device ",
               device, " has ", major, ".", minor);
#endif
}

void require_workspace(const void* workspace, std::int64_t bytes, std::int64_t needed) {
    require(bytes >= needed && (workspace != nullptr || needed == 0), "the workspace must have ", needed,
            " bytes; it has ", workspace == nullptr ? 0 : bytes, ": ask dsa_OP_workspace for the size");
}

}  // namespace dsa

extern "C" {
const char* dsa_last_error(void) { return dsa::last_error.c_str(); }
// Beside dsa.h: which level the calls of this thread run (0: the highest that takes the call).
void dsa_choose_level(int number) { dsa::choose_level(number); }
int dsa_wants_device_memory(void) {
#if defined(DSA_SIMULATOR)
    return 0;
#else
    return 1;
#endif
}
}
