#include "optimized/training_step/parts.h"

#include "optimized/linear/linear.h"
#include "optimized/rms_norm/op.h"
#include "optimized/rms_norm_backward/op.h"
#include "optimized/support/compose.h"
#include "optimized/weight_gradient/weight_gradient.h"

namespace dsa {
namespace {

// dy w^T: K and N are those of w.
Linear transposed(const bf16* dy, const bf16* w, std::int64_t T, std::int64_t K, std::int64_t N, Stream stream) {
    Linear one = packed_linear(dy, w, nullptr, T, N, K, stream);
    one.w_k = 1;
    one.w_n = N;
    return one;
}

}  // namespace

void Parts::product(const bf16* x, const bf16* w, bf16* y, std::int64_t K, std::int64_t N) const {
    linear(packed_linear(x, w, y, T_, K, N, call_->stream), products_level());
}

void Parts::product(const bf16* x, const bf16* w, const float* w_float32, float* y, std::int64_t K,
                    std::int64_t N) const {
    Linear one = packed_linear(x, w, nullptr, T_, K, N, call_->stream);
    one.w_float32 = w_float32;
    one.y_float32 = y;
    linear(one, products_level());
}

void Parts::input_gradient(const bf16* dy, const bf16* w, bf16* dx, std::int64_t K, std::int64_t N) const {
    Linear one = transposed(dy, w, T_, K, N, call_->stream);
    one.y = dx;
    linear(one, products_level());
}

void Parts::input_gradient(const bf16* dy, const bf16* w, float* dx, std::int64_t K, std::int64_t N) const {
    Linear one = transposed(dy, w, T_, K, N, call_->stream);
    one.y_float32 = dx;
    linear(one, products_level());
}

void Parts::input_gradient(const float* dy, const bf16* w, bf16* dx, std::int64_t K, std::int64_t N) const {
    Linear one = transposed(nullptr, w, T_, K, N, call_->stream);
    one.x_float32 = dy;
    one.y = dx;
    linear(one, products_level());
}

void Parts::weight_gradient(const bf16* x, const bf16* dy, float* dw, std::int64_t K, std::int64_t N) const {
    dsa::weight_gradient({.x = x, .dy = dy, .y = dw, .rows = T_, .M = K, .N = N, .stream = call_->stream}, level_);
}

void Parts::weight_gradient(const bf16* x, const float* dy, float* dw, std::int64_t K, std::int64_t N) const {
    WeightGradient one{.x = x, .dy = nullptr, .y = dw, .rows = T_, .M = K, .N = N, .stream = call_->stream};
    one.dy_float32 = dy;
    dsa::weight_gradient(one, level_);
}

void Parts::norm(const bf16* x, const float* weight, bf16* y, std::int64_t D) const {
    up_to(level_, RmsNorm{x, weight, y, T_, D, call_->eps, call_->stream}, rms_norm_level_1, rms_norm_level_2,
          rms_norm_level_2_declines);
}

void Parts::norm_backward(const bf16* x, const float* weight, const bf16* dy, const bf16* residual, bf16* dx,
                          float* dweight, std::int64_t D, void* workspace, std::int64_t bytes) const {
    const RmsNormBackward norm{x, weight,     dy,        dx,    dweight,       T_,
                               D, call_->eps, workspace, bytes, call_->stream, residual};
    level_ == 1 ? rms_norm_backward_level_1(norm) : rms_norm_backward_level_2(norm);
}

std::int64_t Parts::norm_backward_workspace(std::int64_t D) const {
    RmsNormBackward norm{};
    norm.T = T_;
    norm.D = D;
    return level_ == 1 ? rms_norm_backward_level_1_workspace(norm) : rms_norm_backward_level_2_workspace(norm);
}

}  // namespace dsa
