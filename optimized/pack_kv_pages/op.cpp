#include "optimized/pack_kv_pages/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<PackKvPages> ladder{"pack_kv_pages", {{"one warp a token", pack_kv_pages_level_1}}};

PackKvPages read(const dsa_pack_kv_pages_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    PackKvPages call{};
    call.kv = tensors.in<bf16>("kv", args.kv, {"S", "d"});
    call.S = tensors.size("S");
    const std::int64_t d = tensors.size("d");
    const std::int64_t R_kv = about.whole("R_kv", args.R_kv, 512);
    require(R_kv > 0 && R_kv <= d && d <= 1 << 16, "R_kv must be from 1 to the ", d, " columns of kv; it is ", R_kv);
    require(R_kv <= 128 || R_kv % 128 == 0, "R_kv beyond 128 must be a multiple of 128; it is ", R_kv);
    call.d = static_cast<int>(d);
    call.R_kv = static_cast<int>(R_kv);
    tensors.bind("pages", (call.S + 63) / 64);
    tensors.bind("token bytes", call.token_bytes());
    call.pages = tensors.out<std::uint8_t>("kv_pages", args.kv_pages, {"pages", "64", "token bytes"});
    call.slots = 64 * tensors.size("pages");
    call.quantizer = about.conventions().kv_quantizer;
    call.ue8m0 = about.conventions().ue8m0;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_pack_kv_pages(const dsa_pack_kv_pages_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_pack_kv_pages_workspace(const dsa_pack_kv_pages_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
