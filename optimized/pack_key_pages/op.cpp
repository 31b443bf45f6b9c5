#include "optimized/pack_key_pages/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<PackKeyPages> ladder{"pack_key_pages", {{"one block a page", pack_key_pages_level_1}}};

PackKeyPages read(const dsa_pack_key_pages_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    PackKeyPages call{};
    call.k = tensors.in<e4m3>("k", args.k, {"S", "D_I"});
    call.k_scale = tensors.in<float>("k_scale", args.k_scale, {"S"});
    call.S = tensors.size("S");
    require(tensors.size("D_I") > 0 && tensors.size("D_I") <= 1 << 16, "D_I must be from 1 to 2^16; it is ",
            tensors.size("D_I"));
    call.D_I = static_cast<int>(tensors.size("D_I"));
    tensors.bind("pages", (call.S + 63) / 64);
    tensors.bind("page bytes", 64 * tensors.size("D_I") + 256);
    call.pages = tensors.out<std::uint8_t>("k_pages", args.k_pages, {"pages", "page bytes"});
    call.pages_count = tensors.size("pages");
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_pack_key_pages(const dsa_pack_key_pages_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_pack_key_pages_workspace(const dsa_pack_key_pages_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
