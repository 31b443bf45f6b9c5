#include "optimized/moe/feed_forward.h"

#include "optimized/act_quant/op.h"
#include "optimized/linear/linear.h"

namespace dsa {
namespace {

constexpr std::int64_t block = 128;  // numbers of a row that share a scale

std::int64_t blocks_of(std::int64_t K) { return (K + block - 1) / block; }

// y [rows, N] = x w
void product(const FeedForward& call, const Operand& x, const std::int32_t* row_of, const Matrix& w, std::int64_t N,
             bf16* y, int level) {
    Linear linear_call{};
    if (w.is_fp8()) {
        linear_call.x_e4m3 = x.quantised;
        linear_call.x_scale = x.scale;
        linear_call.w_e4m3 = static_cast<const e4m3*>(w.data);
        linear_call.w_scale = w.scale;
    } else {
        linear_call.x = x.x;
        if (w.dtype == dsa_float32)
            linear_call.w_float32 = static_cast<const float*>(w.data);
        else
            linear_call.w = static_cast<const bf16*>(w.data);
    }
    linear_call.x_row = x.K;
    linear_call.w_k = N;
    linear_call.w_n = 1;
    linear_call.w_head = x.K * N;
    linear_call.y = y;
    linear_call.y_row = N;
    linear_call.T = call.most_rows;
    linear_call.K = x.K;
    linear_call.N = N;
    linear_call.heads = call.heads;
    linear_call.first_row = call.first_row;
    linear_call.row_of = row_of;
    linear_call.stream = call.stream;
    linear(linear_call, level);
}

}  // namespace

Matrix read_matrix(Arguments& tensors, const std::string& name, const dsa_tensor& tensor, const dsa_tensor& scale,
                   std::initializer_list<const char*> axes) {
    Matrix matrix;
    matrix.dtype = static_cast<dsa_dtype>(tensor.dtype);
    if (matrix.dtype == dsa_float32)
        matrix.data = tensors.in<float>(name.c_str(), tensor, axes);
    else if (matrix.dtype == dsa_float8_e4m3)
        matrix.data = tensors.in<e4m3>(name.c_str(), tensor, axes);
    else
        matrix.data = tensors.in<bf16>(name.c_str(), tensor, axes);
    if (!matrix.is_fp8()) return matrix;
    const std::int64_t K = tensor.shape[tensor.rank - 2];
    const std::string down = std::to_string(blocks_of(K));
    const std::string across = std::to_string(blocks_of(tensor.shape[tensor.rank - 1]));
    require(K <= block || K % block == 0, name, " is FP8: its rows, ", K, ", must be a multiple of ", block,
            " or fewer, since the activations share a scale in blocks of so many");
    const std::string scale_name = name + "_scale";
    matrix.scale = tensor.rank == 3
                       ? tensors.in<float>(scale_name.c_str(), scale, {"E", down.c_str(), across.c_str()})
                       : tensors.in<float>(scale_name.c_str(), scale, {down.c_str(), across.c_str()});
    return matrix;
}

Operand lay_out_rows(Arena& arena, const bf16* x, std::int64_t count, std::int64_t K, bool quantised) {
    Operand rows{x, nullptr, nullptr, count, K};
    if (!quantised) return rows;
    rows.quantised = arena.take<e4m3>(count * K);
    rows.scale = arena.take<float>(count * blocks_of(K));
    return rows;
}

void quantise_rows(const Operand& rows, bool ue8m0, int level, Stream stream) {
    ActQuant call{};
    call.x = rows.x;
    call.q = rows.quantised;
    call.scale = rows.scale;
    call.block = static_cast<int>(rows.K < block ? rows.K : block);
    call.blocks = rows.count * blocks_of(rows.K);
    call.quantizer = Quantizer::deepseek;
    call.ue8m0 = ue8m0;
    call.stream = stream;
    level >= 2 && act_quant_level_2_declines(call).empty() ? act_quant_level_2(call) : act_quant_level_1(call);
}

FeedForwardScratch lay_out_feed_forward(Arena& arena, const FeedForward& call) {
    FeedForwardScratch scratch{};
    scratch.gate = arena.take<bf16>(call.rows * call.F);
    scratch.up = arena.take<bf16>(call.rows * call.F);
    scratch.hidden = lay_out_rows(arena, scratch.gate, call.rows, call.F, call.down.is_fp8());
    return scratch;
}

void feed_forward(const FeedForward& call, const Operand& x, const FeedForwardScratch& scratch, bf16* y, int level) {
    product(call, x, call.row_of, call.gate, call.F, scratch.gate, level);
    product(call, x, call.row_of, call.up, call.F, scratch.up, level);
    silu_product(scratch.gate, scratch.up, scratch.gate, call.rows * call.F, call.stream);
    if (call.down.is_fp8()) quantise_rows(scratch.hidden, call.ue8m0, level, call.stream);
    product(call, scratch.hidden, nullptr, call.down, call.D, y, level);
}

}  // namespace dsa
