#include "optimized/hadamard/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<Hadamard> ladder{"hadamard",
                              {{"one block a head, in shared memory", hadamard_level_1},
                               {"one warp a head, in registers", hadamard_level_2, hadamard_level_2_declines}}};

Hadamard read(const dsa_hadamard_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    Hadamard call{};
    call.x = tensors.in<bf16>("x", args.x, {"T", "N", "D_I"});
    call.y = tensors.out<bf16>("y", args.y, {"T", "N", "D_I"});
    call.heads = tensors.size("T") * tensors.size("N");
    const std::int64_t n = tensors.size("D_I");
    require(n > 0 && (n & (n - 1)) == 0 && n <= largest_hadamard,
            "hadamard: the last axis must be a power of two up to ", largest_hadamard, "; it is ", n);
    call.n = static_cast<int>(n);
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_hadamard(const dsa_hadamard_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_hadamard_workspace(const dsa_hadamard_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
