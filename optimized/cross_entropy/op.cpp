#include "optimized/cross_entropy/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<CrossEntropy> ladder{"cross_entropy",
                                  {{"one block a row", cross_entropy_level_1, nullptr, cross_entropy_workspace},
                                   {"maximum and sum in one pass", cross_entropy_level_2,
                                    cross_entropy_level_2_declines, cross_entropy_workspace}}};

CrossEntropy read(const dsa_cross_entropy_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    CrossEntropy call{};
    call.logits = tensors.in<float>("logits", args.logits, {"T", "V"});
    call.targets = tensors.in<std::int32_t>("targets", args.targets, {"T"});
    call.loss = tensors.out<float>("loss", args.loss, {"1"});
    call.dlogits = tensors.out<float>("dlogits", args.dlogits, {"T", "V"});
    call.T = tensors.size("T");
    call.V = tensors.size("V");
    require(call.V > 0 && call.V <= INT32_MAX, "cross_entropy needs a vocabulary of 1 to 2^31 - 1 words; V is ",
            call.V);
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_cross_entropy(const dsa_cross_entropy_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_cross_entropy_workspace(const dsa_cross_entropy_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
