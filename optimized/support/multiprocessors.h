// For how many a persistent kernel divides its work.
#pragma once

namespace dsa {

#if defined(DSA_SIMULATOR)
inline constexpr int multiprocessors = 2;  // small cases shall give a block several items too
#else
inline constexpr int multiprocessors = 132;  // an H100's
#endif

}  // namespace dsa
