// pack_kv_pages, pack_key_pages: the caches' exact bytes. Beside the spec's list: a kernel that fills a cache
// has an oracle too. One right answer, so every tier gives the same bytes.
#include "reference/attention/kv_cache.h"
#include "reference/ops/registry.h"

namespace dsa {
namespace {

struct PackKvPages {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto kv = in.tensor<Deployed>("kv", {"S", "R_kv + d_rope"});
        const Index R_kv = in.whole("R_kv", 512);
        require(R_kv < kv.dim(1) && R_kv % block_for(R_kv) == 0, "R_kv must be below the ", kv.dim(1),
                " columns of kv and a multiple of 128; it is ", R_kv);
        const Conventions& c = in.conventions();
        out.show("kv_pages", pack_kv_pages(kv, {R_kv, kv.dim(1) - R_kv}, c.kv_quantizer, c.scale_format));
    }
};

struct PackKeyPages {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto k = in.tensor<Deployed>("k", {"S", "D_I"});
        out.show("k_pages", pack_key_pages(k, in.tensor<Deployed>("k_scale", {"S"})));
    }
};

}  // namespace

std::vector<Op> page_ops() {
    return {make_op<PackKvPages>("pack_kv_pages", {"kv_pages"}),
            make_op<PackKeyPages>("pack_key_pages", {"k_pages"})};
}

}  // namespace dsa
