// Places in kernels' sources, as small numbers. An access knows only its return address; file and line are looked up
// when there is something to tell.
#pragma once

#include <cstdint>
#include <string>

#include "optimized/simulator/thread.h"

namespace dsa::simulator {

using Site = std::uint32_t;
inline constexpr Site most_sites = (1U << 20) - 1;

Site site_of(const void* return_address);
// `what`: an instruction of the model; it and the file's name outlive the site.
Site site_of(const char* what, Where where);

// "rms_norm.cu:41", or "cp.async at rms_norm.cu:41"; without debug information or addr2line
// "libdsa_simulated.so+0x1f30".
std::string text_of_site(Site site);

}  // namespace dsa::simulator
