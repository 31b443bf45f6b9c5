#include "optimized/linear/linear.h"
#include "optimized/support/compose.h"

namespace dsa {

void linear(const Linear& call, int level) {
    if (level >= 3 && linear_level_3_declines(call).empty()) return linear_level_3(call);
    up_to(level, call, linear_level_1, linear_level_2, linear_level_2_declines);
}

Linear packed_linear(const bf16* x, const bf16* w, bf16* y, std::int64_t T, std::int64_t K, std::int64_t N,
                     Stream stream) {
    Linear call{};
    call.x = x;
    call.x_row = K;
    call.w = w;
    call.w_k = N;
    call.w_n = 1;
    call.y = y;
    call.y_row = N;
    call.T = T;
    call.K = K;
    call.N = N;
    call.heads = 1;
    call.stream = stream;
    return call;
}

}  // namespace dsa
