#include "optimized/transformer_block/op.h"

#include "optimized/dsa_attention/read.h"
#include "optimized/moe/read.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<TransformerBlock> ladder{
    "transformer_block",
    {{"every part at its level 1", transformer_block_level_1, nullptr, transformer_block_level_1_workspace},
     {"every part at its highest", transformer_block_level_2, nullptr, transformer_block_level_2_workspace}}};

FeedForward read_dense(const Case& about, Arguments& tensors, const dsa_transformer_block_args& args) {
    FeedForward dense{};
    dense.gate = read_matrix(tensors, "W_gate", args.W_gate, args.W_gate_scale, {"D", "F"});
    dense.up = read_matrix(tensors, "W_up", args.W_up, args.W_up_scale, {"D", "F"});
    dense.down = read_matrix(tensors, "W_down", args.W_down, args.W_down_scale, {"F", "D"});
    dense.D = tensors.size("D");
    dense.F = tensors.size("F");
    dense.most_rows = dense.rows = tensors.size("T");
    dense.ue8m0 = about.conventions().ue8m0;
    dense.stream = args.stream;
    return dense;
}

TransformerBlock read(const dsa_transformer_block_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    TransformerBlock call{};
    call.hidden = tensors.in<bf16>("hidden", args.hidden, {"T", "D"});
    call.attention_norm = tensors.in<float>("attention_norm", args.attention_norm, {"D"});
    call.ffn_norm = tensors.in<float>("ffn_norm", args.ffn_norm, {"D"});
    read_attention(about, tensors, args, nullptr, call.attention);
    call.is_mixture = args.W_g.data != nullptr;
    if (call.is_mixture) {
        read_moe(about, tensors, args, call.moe);
        call.moe.stream = call.moe.gate.stream = args.stream;
    } else {
        call.dense = read_dense(about, tensors, args);
    }
    call.y = tensors.out<bf16>("y", args.y, {"T", "D"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    call.eps = call.attention.mla.eps;
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_transformer_block(const dsa_transformer_block_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_transformer_block_workspace(const dsa_transformer_block_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
