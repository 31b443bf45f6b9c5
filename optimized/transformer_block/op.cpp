#include "optimized/transformer_block/op.h"

#include "optimized/dsa_attention/read.h"
#include "optimized/support/ladder.h"
#include "optimized/transformer_block/read.h"

namespace dsa {
namespace {

const Ladder<TransformerBlock> ladder{
    "transformer_block",
    {{"every part at its level 1", transformer_block_level_1, nullptr, transformer_block_level_1_workspace},
     {"every part at its highest", transformer_block_level_2, nullptr, transformer_block_level_2_workspace}}};

TransformerBlock read(const dsa_transformer_block_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    TransformerBlock call{};
    read_hidden(tensors, args, call);
    read_attention(about, tensors, args, nullptr, call.attention);
    read_net(about, tensors, args, call);
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
