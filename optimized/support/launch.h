// The one way in which a kernel starts.
#pragma once

#include <cstddef>
#include <utility>

#include "optimized/hopper/device.h"
#include "optimized/support/grid.h"

namespace dsa {

// Starts kernel(args...) on how.stream. `name` is for sentences. Nothing is started where there are no blocks.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Launch& how, Arguments&&... args) {
    check_grid(name, how);
    if (how.blocks == 0 || how.blocks_y == 0 || how.blocks_z == 0) return;
#if defined(DSA_SIMULATOR)
    const simulator::Shape shape{
        {static_cast<unsigned>(how.blocks), static_cast<unsigned>(how.blocks_y), static_cast<unsigned>(how.blocks_z)},
        {static_cast<unsigned>(how.threads)},
        how.shared_bytes,
        static_cast<unsigned>(how.cluster),
        how.overlaps_previous};
    try {
        simulator::run_grid(shape, [&] { kernel(static_cast<Parameters>(args)...); });
    } catch (const simulator::Fault& fault) {
        refuse(Status::launch_failed, name, ": ", fault.what());
    }
#else
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(how.blocks), static_cast<unsigned>(how.blocks_y),
                          static_cast<unsigned>(how.blocks_z));
    config.blockDim = dim3(static_cast<unsigned>(how.threads));
    config.dynamicSmemBytes = how.shared_bytes;
    config.stream = static_cast<cudaStream_t>(how.stream);
    cudaLaunchAttribute attributes[2]{};
    config.attrs = attributes;
    if (how.cluster > 1) {
        cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = static_cast<unsigned>(how.cluster);
        attribute.val.clusterDim.y = 1;
        attribute.val.clusterDim.z = 1;
    }
    if (how.overlaps_previous) {
        cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    constexpr std::size_t without_asking = 48 << 10;
    cudaError_t error = cudaSuccess;
    if (how.shared_bytes > without_asking)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(how.shared_bytes));
    if (error == cudaSuccess) error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...);
    if (error != cudaSuccess)
        refuse(Status::launch_failed, "the kernel ", name, " could not be started with ", how.blocks, " x ",
               how.blocks_y, " x ", how.blocks_z, " blocks of ", how.threads, " threads and ", how.shared_bytes,
               " bytes of shared memory: ", cudaGetErrorString(error));
#endif
}

}  // namespace dsa
