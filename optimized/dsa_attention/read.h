// An attention block's part of a call's struct, which dsa_attention, transformer_block and the serving step have in
// common.
#pragma once

#include "optimized/dsa_attention/op.h"
#include "optimized/indexer_project/read.h"

namespace dsa {

inline HeadWeight head_weight(Arguments& tensors, const char* name, const dsa_tensor& tensor,
                              std::initializer_list<const char*> axes) {
    if (tensor.dtype == dsa_float32) return {nullptr, tensors.in<float>(name, tensor, axes)};
    return {tensors.in<bf16>(name, tensor, axes), nullptr};
}

// Weights, parameters and conventions. x is where the normalised input lies or will lie; T and D are bound before.
template <class Args>
void read_attention_block(const Case& about, Arguments& tensors, const Args& args, const bf16* x,
                          DsaAttention& call) {
    const Conventions& conventions = about.conventions();
    MlaProject& mla = call.mla;
    mla.x = x;
    mla.positions = tensors.in<std::int32_t>("positions", args.positions, {"T"});
    mla.W_dq = tensors.in<bf16>("W_dq", args.W_dq, {"D", "R_q"});
    mla.q_norm = tensors.in<float>("q_norm", args.q_norm, {"R_q"});
    mla.W_uq = tensors.in<bf16>("W_uq", args.W_uq, {"R_q", "H", "d_q"});
    mla.W_dkv = tensors.in<bf16>("W_dkv", args.W_dkv, {"D", "d"});
    mla.kv_norm = tensors.in<float>("kv_norm", args.kv_norm, {"R_kv"});
    mla.T = call.T = tensors.size("T");
    mla.D = tensors.size("D");
    mla.R_q = tensors.size("R_q");
    mla.H = tensors.size("H");
    mla.R_kv = tensors.size("R_kv");
    mla.d_rope = tensors.size("d") - mla.R_kv;
    mla.d_nope = tensors.size("d_q") - mla.d_rope;
    require(mla.D > 0 && mla.R_q > 0 && mla.R_kv > 0 && mla.H > 0,
            "an attention block needs widths of at least 1; D is ", mla.D, ", R_q ", mla.R_q, ", R_kv ", mla.R_kv,
            ", H ", mla.H);
    require(mla.d_rope > 0 && mla.d_nope > 0, "W_dkv's width must be R_kv = ", mla.R_kv,
            " and the rotated size, which is less than W_uq's last axis; they are ", tensors.size("d"), " and ",
            tensors.size("d_q"));
    tensors.bind("d_nope", mla.d_nope);
    mla.eps = static_cast<float>(about.number("eps", args.eps, 1e-6));
    mla.rope = rope_table(about.rope(), mla.d_rope);
    mla.rope_output = conventions.mla_rope_output;
    call.W_uk = head_weight(tensors, "W_uk", args.W_uk, {"R_kv", "H", "d_nope"});
    call.W_uv = head_weight(tensors, "W_uv", args.W_uv, {"R_kv", "H", "d_v"});
    call.W_o = head_weight(tensors, "W_o", args.W_o, {"H", "d_v", "D"});
    call.d_v = tensors.size("d_v");

    IndexerProject& indexer = call.indexer;
    indexer.x = x;
    indexer.positions = mla.positions;
    indexer.W_qI = tensors.in<bf16>("W_qI", args.W_qI, {"R_q", "H_I", "D_I"});
    indexer.W_kI = tensors.in<bf16>("W_kI", args.W_kI, {"D", "D_I"});
    indexer.k_norm = tensors.in<float>("k_norm", args.k_norm, {"D_I"});
    indexer.k_bias = tensors.in<float>("k_bias", args.k_bias, {"D_I"});
    const HeadWeight W_w = head_weight(tensors, "W_w", args.W_w, {"D", "H_I"});
    indexer.W_w = W_w.as_bf16;
    indexer.W_w_float32 = W_w.as_float32;
    indexer.T = call.T;
    indexer.D = mla.D;
    indexer.R_q = mla.R_q;
    indexer.H_I = tensors.size("H_I");
    indexer.D_I = tensors.size("D_I");
    indexer.eps = mla.eps;
    indexer.rope = mla.rope;
    read_indexer_conventions(about, indexer);

    call.topk = about.whole("topk", args.topk, 0);
    require(call.topk > 0, "an attention block needs the parameter topk: how many tokens a query may select");
    call.attention.scale = static_cast<float>(about.softmax_scale(args.scale, mla.d_nope, mla.d_rope));
    call.attention.base2 = conventions.lse_base2;
    call.attention.plus_infinity = conventions.empty_row_plus_infinity;
    call.bf16_scores = conventions.indexer_scores_bf16;
    call.hopper_sums = conventions.hopper_fp8_sums;
    call.nan_as_minus_infinity = conventions.nan_as_minus_infinity;
    call.latent_fp8 = conventions.kv_latent_fp8;
    call.kv_quantizer = conventions.kv_quantizer;
    call.ue8m0 = conventions.ue8m0;
    constexpr std::int64_t block = 128;
    require(!call.latent_fp8 || mla.R_kv <= block || mla.R_kv % block == 0,
            "kv_latent_fp8 gives a scale to blocks of ", block,
            " numbers: R_kv must be a multiple of it, or less; it is ", mla.R_kv);
    mla.stream = indexer.stream = call.stream = args.stream;
}

// The same, and the context as one piece: first candidates and the cache.
template <class Args>
void read_attention(const Case& about, Arguments& tensors, const Args& args, const bf16* x, DsaAttention& call) {
    read_attention_block(about, tensors, args, x, call);
    call.start = tensors.maybe<std::int32_t>("start", args.start, {"T"});
    const bool cached =
        args.cache_kv.data != nullptr || args.cache_k.data != nullptr || args.cache_k_scale.data != nullptr;
    if (cached) {
        call.cache_kv = tensors.in<bf16>("cache_kv", args.cache_kv, {"C", "d"});
        if (about.conventions().quantizer == Quantizer::none)
            call.cache_k = tensors.in<bf16>("cache_k", args.cache_k, {"C", "D_I"});
        else
            call.cache_k = tensors.in<e4m3>("cache_k", args.cache_k, {"C", "D_I"});
        call.cache_k_scale = tensors.in<float>("cache_k_scale", args.cache_k_scale, {"C"});
        call.C = tensors.size("C");
    }
    require(call.S() <= INT32_MAX,
            "positions are counted in 32 bits: the context must be below 2^31 tokens; it is of ", call.S());
}

}  // namespace dsa
