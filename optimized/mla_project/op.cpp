#include "optimized/mla_project/op.h"

#include "optimized/linear/linear.h"
#include "optimized/rms_norm/op.h"
#include "optimized/rope/op.h"
#include "optimized/support/arena.h"
#include "optimized/support/arguments.h"
#include "optimized/support/compose.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

// What lies between the stages.
struct Scratch {
    bf16* raw_c_q;     // [T, R_q]
    bf16* raw_latent;  // [T, R_kv]
    bf16* raw_q_rope;  // [T, H, d_rope]
    bf16* raw_k_rope;  // [T, d_rope]
};

Scratch lay_out(const MlaProject& call, Arena& arena) {
    return {arena.take<bf16>(call.T * call.R_q), arena.take<bf16>(call.T * call.R_kv),
            arena.take<bf16>(call.T * call.H * call.d_rope), arena.take<bf16>(call.T * call.d_rope)};
}

std::int64_t scratch_bytes(const MlaProject& call) {
    Arena arena;
    lay_out(call, arena);
    return arena.bytes();
}

void norm(const MlaProject& call, const bf16* x, const float* weight, bf16* y, std::int64_t width, int level) {
    up_to(level, RmsNorm{x, weight, y, call.T, width, call.eps, call.stream}, rms_norm_level_1, rms_norm_level_2,
          rms_norm_level_2_declines);
}

void turn(const MlaProject& call, const bf16* x, bf16* y, std::int64_t heads, int level) {
    const RotaryEmbedding turned{
        x, call.positions, y, call.T, heads, call.rope, RopeLayout::interleaved, call.rope_output, call.stream};
    up_to(level, turned, rope_level_1, rope_level_2, rope_level_2_declines);
}

// One part of each head: of d_nope + d_rope numbers those from `first`, `width` of them.
void query_part(const MlaProject& call, std::int64_t first, std::int64_t width, bf16* y, int level) {
    const std::int64_t d_q = call.d_nope + call.d_rope;
    Linear part = packed_linear(call.c_q, call.W_uq + first, y, call.T, call.R_q, width, call.stream);
    part.heads = call.H;
    part.w_k = call.H * d_q;
    part.w_head = d_q;
    part.y_row = call.H * width;
    part.y_head = width;
    linear(part, level);
}

// The same of a token's latent and rope.
void key_part(const MlaProject& call, std::int64_t first, std::int64_t width, bf16* y, int level) {
    Linear part = packed_linear(call.x, call.W_dkv + first, y, call.T, call.D, width, call.stream);
    part.w_k = call.R_kv + call.d_rope;
    linear(part, level);
}

void project(const MlaProject& call, int level) {
    require_workspace(call.workspace, call.workspace_bytes, scratch_bytes(call));
    Arena arena(call.workspace);
    const Scratch scratch = lay_out(call, arena);
    linear(packed_linear(call.x, call.W_dq, scratch.raw_c_q, call.T, call.D, call.R_q, call.stream), level);
    norm(call, scratch.raw_c_q, call.q_norm, call.c_q, call.R_q, level);
    query_part(call, 0, call.d_nope, call.q_nope, level);
    query_part(call, call.d_nope, call.d_rope, scratch.raw_q_rope, level);
    turn(call, scratch.raw_q_rope, call.q_rope, call.H, level);
    key_part(call, 0, call.R_kv, scratch.raw_latent, level);
    norm(call, scratch.raw_latent, call.kv_norm, call.c_kv, call.R_kv, level);
    key_part(call, call.R_kv, call.d_rope, scratch.raw_k_rope, level);
    turn(call, scratch.raw_k_rope, call.k_rope, 1, level);
}

void level_1(const MlaProject& call) { project(call, 1); }
void level_2(const MlaProject& call) { project(call, 2); }
void level_3(const MlaProject& call) { project(call, 3); }

// The products' rows must be whole pieces of 16 bytes: linear/level_2_tensor_cores.cu.
std::string level_2_declines(const MlaProject& call) {
    constexpr int piece = 8;
    for (const std::int64_t size : {call.D, call.R_q, call.R_kv, call.d_nope, call.d_rope})
        if (size % piece != 0)
            return sentence("D, R_q, R_kv, d_nope and d_rope must be multiples of ", piece, "; one is ", size);
    return {};
}

const Ladder<MlaProject> ladder{"mla_project",
                                {{"stage by stage, plain tiles", level_1, nullptr, scratch_bytes},
                                 {"products on the tensor cores", level_2, level_2_declines, scratch_bytes},
                                 {"products by wgmma", level_3, level_2_declines, scratch_bytes}}};

MlaProject read(const dsa_mla_project_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    MlaProject call{};
    call.x = tensors.in<bf16>("x", args.x, {"T", "D"});
    call.positions = tensors.in<std::int32_t>("positions", args.positions, {"T"});
    call.W_dq = tensors.in<bf16>("W_dq", args.W_dq, {"D", "R_q"});
    call.q_norm = tensors.in<float>("q_norm", args.q_norm, {"R_q"});
    call.W_uq = tensors.in<bf16>("W_uq", args.W_uq, {"R_q", "H", "d_q"});
    call.W_dkv = tensors.in<bf16>("W_dkv", args.W_dkv, {"D", "d"});
    call.kv_norm = tensors.in<float>("kv_norm", args.kv_norm, {"R_kv"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    call.R_q = tensors.size("R_q");
    call.H = tensors.size("H");
    call.R_kv = tensors.size("R_kv");
    call.d_rope = tensors.size("d") - call.R_kv;
    call.d_nope = tensors.size("d_q") - call.d_rope;
    require(call.R_q > 0 && call.R_kv > 0, "mla_project needs latents of at least one number; R_q is ", call.R_q,
            ", R_kv ", call.R_kv);
    require(call.d_rope > 0 && call.d_nope >= 0, "W_dkv's width must be R_kv = ", call.R_kv,
            " and the rotated size, which is at most W_uq's last axis; they are ", tensors.size("d"), " and ",
            tensors.size("d_q"));
    tensors.bind("d_nope", call.d_nope);
    tensors.bind("d_rope", call.d_rope);
    call.c_q = tensors.out<bf16>("c_q", args.c_q, {"T", "R_q"});
    call.q_nope = tensors.out<bf16>("q_nope", args.q_nope, {"T", "H", "d_nope"});
    call.q_rope = tensors.out<bf16>("q_rope", args.q_rope, {"T", "H", "d_rope"});
    call.c_kv = tensors.out<bf16>("c_kv", args.c_kv, {"T", "R_kv"});
    call.k_rope = tensors.out<bf16>("k_rope", args.k_rope, {"T", "d_rope"});
    call.eps = static_cast<float>(about.number("eps", args.eps, 1e-6));
    call.rope = rope_table(about.rope(), call.d_rope);
    call.rope_output = about.conventions().mla_rope_output;
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace

void mla_project(const MlaProject& call) { ladder.run(call); }
std::int64_t mla_project_workspace(const MlaProject& call) { return ladder.workspace(call); }

}  // namespace dsa

extern "C" {
int dsa_mla_project(const dsa_mla_project_args* args) {
    return dsa::answered([&] { dsa::mla_project(dsa::read(*args)); });
}
int64_t dsa_mla_project_workspace(const dsa_mla_project_args* args) {
    return dsa::measured([&] { return dsa::mla_project_workspace(dsa::read(*args)); });
}
}
