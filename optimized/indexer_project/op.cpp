#include "optimized/indexer_project/op.h"

#include "optimized/indexer_project/read.h"
#include "optimized/layer_norm/op.h"
#include "optimized/linear/linear.h"
#include "optimized/support/arena.h"
#include "optimized/support/arguments.h"
#include "optimized/support/compose.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

// What lies between the stages.
struct Scratch {
    bf16* q;     // [T, H_I, D_I], as the product leaves it
    bf16* k;     // [T, D_I]
    bf16* k_ln;  // the same after its norm
};

Scratch lay_out(const IndexerProject& call, Arena& arena) {
    return {arena.take<bf16>(call.T * call.H_I * call.D_I), arena.take<bf16>(call.T * call.D_I),
            arena.take<bf16>(call.T * call.D_I)};
}

std::int64_t scratch_bytes(const IndexerProject& call) {
    Arena arena;
    lay_out(call, arena);
    return arena.bytes();
}

void vectors(const IndexerVectors& call, int level) {
    up_to(level, call, indexer_vectors_level_1, indexer_vectors_level_2, indexer_vectors_level_2_declines);
}

// What queries and keys have in common.
IndexerVectors common_vectors(const IndexerProject& call) {
    IndexerVectors v{};
    v.positions = call.positions;
    v.T = call.T;
    v.N = 1;
    v.D_I = static_cast<int>(call.D_I);
    v.rope = call.rope;
    v.layout = call.layout;
    v.hadamard = call.hadamard;
    v.quantizer = call.quantizer;
    v.ue8m0 = call.ue8m0;
    v.stream = call.stream;
    return v;
}

void product_of_queries(const IndexerProject& call, const Scratch& scratch, int level) {
    linear(packed_linear(call.c_q, call.W_qI, scratch.q, call.T, call.R_q, call.H_I * call.D_I, call.stream), level);
}

void product_of_keys(const IndexerProject& call, const Scratch& scratch, int level) {
    linear(packed_linear(call.x, call.W_kI, scratch.k, call.T, call.D, call.D_I, call.stream), level);
}

void product_of_weights(const IndexerProject& call, int level) {
    Linear head_weights = packed_linear(call.x, call.W_w, nullptr, call.T, call.D, call.H_I, call.stream);
    head_weights.w_float32 = call.W_w_float32;
    head_weights.y_float32 = call.weights;
    linear(head_weights, level);
}

void queries(const IndexerProject& call, const Scratch& scratch, int level) {
    product_of_queries(call, scratch, level);
    product_of_weights(call, level);
    IndexerVectors v = common_vectors(call);
    v.x = scratch.q;
    v.y = call.q;
    v.y_bf16 = call.q_bf16;
    v.scale = call.q_scale;
    v.weights = call.weights;
    v.N = call.H_I;
    v.factor = call.factor;
    v.weights_bf16 = call.weights_bf16;
    vectors(v, level);
}

void keys(const IndexerProject& call, const Scratch& scratch, int level) {
    product_of_keys(call, scratch, level);
    up_to(level,
          LayerNorm{scratch.k, call.k_norm, call.k_bias, scratch.k_ln, call.T, call.D_I, call.eps, call.stream},
          layer_norm_level_1, layer_norm_level_2, layer_norm_level_2_declines);
    IndexerVectors v = common_vectors(call);
    v.x = scratch.k_ln;
    v.y = call.k;
    v.y_bf16 = call.k_bf16;
    v.scale = call.k_scale;
    vectors(v, level);
}

void project(const IndexerProject& call, int level) {
    require(call.key_pages == nullptr, "keys go straight into pages from level 4 on");
    require_workspace(call.workspace, call.workspace_bytes, scratch_bytes(call));
    Arena arena(call.workspace);
    const Scratch scratch = lay_out(call, arena);
    queries(call, scratch, level);
    keys(call, scratch, level);
}

void level_1(const IndexerProject& call) { project(call, 1); }
void level_2(const IndexerProject& call) { project(call, 2); }
void level_3(const IndexerProject& call) { project(call, 3); }
void level_4(const IndexerProject& call) {
    require_workspace(call.workspace, call.workspace_bytes, scratch_bytes(call));
    Arena arena(call.workspace);
    const Scratch scratch = lay_out(call, arena);
    constexpr int products = 3;
    product_of_weights(call, products);
    product_of_keys(call, scratch, products);
    product_of_queries(call, scratch, products);
    indexer_one_pass(call, scratch.q, scratch.k);
}
void level_5(const IndexerProject& call) {
    require_workspace(call.workspace, call.workspace_bytes, scratch_bytes(call));
    Arena arena(call.workspace);
    const Scratch scratch = lay_out(call, arena);
    indexer_narrow_products(call, scratch.k);
    product_of_queries(call, scratch, 3);
    indexer_one_pass(call, scratch.q, scratch.k);
}

// The products' rows must be whole pieces of 16 bytes: linear/level_2_tensor_cores.cu. (The head weights, a small
// product, may take plain tiles.)
std::string level_2_declines(const IndexerProject& call) {
    constexpr int piece = 8;
    for (const std::int64_t size : {call.D, call.R_q})
        if (size % piece != 0) return sentence("D and R_q must be multiples of ", piece, "; one is ", size);
    return indexer_vectors_level_2_declines(common_vectors(call));
}
std::string level_4_declines(const IndexerProject& call) {
    const std::string why = level_2_declines(call);
    return why.empty() ? indexer_one_pass_declines(call) : why;
}
std::string level_5_declines(const IndexerProject& call) {
    const std::string why = level_4_declines(call);
    return why.empty() ? indexer_narrow_products_declines(call) : why;
}

const Ladder<IndexerProject> ladder{
    "indexer_project",
    {{"plain tiles, then one block a vector", level_1, nullptr, scratch_bytes},
     {"tensor cores, then one warp a vector", level_2, level_2_declines, scratch_bytes},
     {"products by wgmma", level_3, level_2_declines, scratch_bytes},
     {"queries and keys in one pass", level_4, level_4_declines, scratch_bytes},
     {"keys' and head weights' products in one", level_5, level_5_declines, scratch_bytes}}};

IndexerProject read(const dsa_indexer_project_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    IndexerProject call{};
    call.x = tensors.in<bf16>("x", args.x, {"T", "D"});
    call.c_q = tensors.in<bf16>("c_q", args.c_q, {"T", "R_q"});
    call.positions = tensors.in<std::int32_t>("positions", args.positions, {"T"});
    call.W_qI = tensors.in<bf16>("W_qI", args.W_qI, {"R_q", "H_I", "D_I"});
    call.W_kI = tensors.in<bf16>("W_kI", args.W_kI, {"D", "D_I"});
    call.k_norm = tensors.in<float>("k_norm", args.k_norm, {"D_I"});
    call.k_bias = tensors.in<float>("k_bias", args.k_bias, {"D_I"});
    if (args.W_w.dtype == dsa_float32)
        call.W_w_float32 = tensors.in<float>("W_w", args.W_w, {"D", "H_I"});
    else
        call.W_w = tensors.in<bf16>("W_w", args.W_w, {"D", "H_I"});
    if (about.conventions().quantizer == Quantizer::none) {
        call.q_bf16 = tensors.out<bf16>("q", args.q, {"T", "H_I", "D_I"});
        call.k_bf16 = tensors.out<bf16>("k", args.k, {"T", "D_I"});
    } else {
        call.q = tensors.out<e4m3>("q", args.q, {"T", "H_I", "D_I"});
        call.k = tensors.out<e4m3>("k", args.k, {"T", "D_I"});
    }
    call.k_scale = tensors.out<float>("k_scale", args.k_scale, {"T"});
    call.weights = tensors.out<float>("weights", args.weights, {"T", "H_I"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    call.R_q = tensors.size("R_q");
    call.H_I = tensors.size("H_I");
    call.D_I = tensors.size("D_I");
    call.rope = rope_table(about.rope(), about.whole("d_rope", args.d_rope, 64));
    call.eps = static_cast<float>(about.number("eps", args.eps, 1e-6));
    read_indexer_conventions(about, call);
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace

void indexer_project(const IndexerProject& call) { ladder.run(call); }
std::int64_t indexer_project_workspace(const IndexerProject& call) { return ladder.workspace(call); }

}  // namespace dsa

extern "C" {
int dsa_indexer_project(const dsa_indexer_project_args* args) {
    return dsa::answered([&] { dsa::indexer_project(dsa::read(*args)); });
}
int64_t dsa_indexer_project_workspace(const dsa_indexer_project_args* args) {
    return dsa::measured([&] { return dsa::indexer_project_workspace(dsa::read(*args)); });
}
}
