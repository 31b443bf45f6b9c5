#include "optimized/top_k/op.h"

#include "optimized/support/at_level.h"
#include "optimized/support/ladder.h"
#include "optimized/top_k/read.h"

namespace dsa {
namespace {

const Ladder<TopK> ladder{"top_k",
                          {{"4 digits of 8 bits along the row", top_k_level_1},
                           {"11 bits a digit, survivors on chip", top_k_level_2},
                           {"the row in registers", top_k_level_3, top_k_level_3_declines},
                           {"a cluster shares a row", top_k_level_4, top_k_level_4_declines},
                           {"candidates above a sample", top_k_level_5, top_k_level_5_declines}}};

TopK read(const dsa_top_k_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    TopK call{};
    call.k = read_k(about, tensors, args.topk);
    call.logits = tensors.in<float>("logits", args.logits, {"T", "S"});
    call.start = tensors.in<std::int32_t>("start", args.start, {"T"});
    call.end = tensors.in<std::int32_t>("end", args.end, {"T"});
    call.indices = tensors.out<std::int32_t>("indices", args.indices, {"T", "topk"});
    call.T = tensors.size("T");
    call.S = tensors.size("S");
    require_positions(call.S);
    call.nan_as_minus_infinity = about.conventions().nan_as_minus_infinity;
    call.stream = args.stream;
    return call;
}

// Where nobody chooses: the level that was the fastest for such sizes (notes.md), if it takes the call.
int fastest_level(const TopK& call) {
    constexpr std::int64_t few_rows = 16, some_rows = 32, short_row = 32768;
    if (top_k_level_3_declines(call).empty()) return 3;
    const bool are_few = call.T <= few_rows || (call.T <= some_rows && call.S <= short_row);
    if (are_few && top_k_level_4_declines(call).empty()) return 4;
    return 0;
}

}  // namespace

void top_k(const TopK& call) {
    const AtLevel level(chosen_level() == 0 ? fastest_level(call) : chosen_level());
    ladder.run(call);
}

}  // namespace dsa

extern "C" {
int dsa_top_k(const dsa_top_k_args* args) {
    return dsa::answered([&] { dsa::top_k(dsa::read(*args)); });
}
int64_t dsa_top_k_workspace(const dsa_top_k_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
