#include "optimized/rope/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<RotaryEmbedding> ladder{"rope",
                                     {{"one thread a pair", rope_level_1},
                                      {"one block a token, its turns shared", rope_level_2, rope_level_2_declines}}};

RotaryEmbedding read(const dsa_rope_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    RotaryEmbedding call{};
    call.x = tensors.in<bf16>("x", args.x, {"T", "N", "d_rope"});
    call.positions = tensors.in<std::int32_t>("positions", args.positions, {"T"});
    call.y = tensors.out<bf16>("y", args.y, {"T", "N", "d_rope"});
    call.T = tensors.size("T");
    call.N = tensors.size("N");
    call.table = rope_table(about.rope(), tensors.size("d_rope"));
    call.layout = about.layout("layout", RopeLayout::interleaved);
    call.output_layout = about.layout("output_layout", call.layout);
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_rope(const dsa_rope_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_rope_workspace(const dsa_rope_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
