// The parts that a layer is made of, at the chain's level and for T rows: what the chain's files say in one line
// each.
#pragma once

#include "optimized/training_step/op.h"

namespace dsa {

class Parts {
   public:
    Parts(const TrainingStep& call, int level) : call_(&call), level_(level), T_(call.sizes.T) {}

    // Of linear, which is no op with a ladder of its own, and of nets, whose ladder has one level more than ours.
    int products_level() const { return level_ == 1 ? 1 : 3; }
    int level() const { return level_; }

    // y [T, N] = x [T, K] w [K, N]
    void product(const bf16* x, const bf16* w, bf16* y, std::int64_t K, std::int64_t N) const;
    void product(const bf16* x, const bf16* w, const float* w_float32, float* y, std::int64_t K,
                 std::int64_t N) const;
    // dx [T, K] = dy [T, N] w^T, w [K, N]
    void input_gradient(const bf16* dy, const bf16* w, bf16* dx, std::int64_t K, std::int64_t N) const;
    void input_gradient(const bf16* dy, const bf16* w, float* dx, std::int64_t K, std::int64_t N) const;
    void input_gradient(const float* dy, const bf16* w, bf16* dx, std::int64_t K, std::int64_t N) const;
    // dw [K, N] = x [T, K]^T dy [T, N]
    void weight_gradient(const bf16* x, const bf16* dy, float* dw, std::int64_t K, std::int64_t N) const;
    void weight_gradient(const bf16* x, const float* dy, float* dw, std::int64_t K, std::int64_t N) const;

    // x, y: [T, D]
    void norm(const bf16* x, const float* weight, bf16* y, std::int64_t D) const;
    // dx = (residual +) what dy gives; the workspace is the norm's.
    void norm_backward(const bf16* x, const float* weight, const bf16* dy, const bf16* residual, bf16* dx,
                       float* dweight, std::int64_t D, void* workspace, std::int64_t bytes) const;
    std::int64_t norm_backward_workspace(std::int64_t D) const;

   private:
    const TrainingStep* call_;
    int level_;
    std::int64_t T_;
};

}  // namespace dsa
