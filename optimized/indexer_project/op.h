// The lightning indexer's queries, keys and head weights. spec section 3.
//   q = c_q W_qI;  k = LayerNorm(x W_kI);  both: rope on the FIRST d_rope numbers, Hadamard, e4m3 with one scale a
//   vector weights = (x W_w) H_I^-0.5 D_I^-0.5 q_scale
//
// level 1  products in plain tiles; then one block a vector turns, transforms and quantises it in shared memory
// level 2  products on the tensor cores; then one warp a vector, which stays in its registers
// level 3  products at linear's level 3: tensor copies and wgmma
// level 4  queries and keys in one pass after their products, the Hadamard transform on the tensor cores
// level 5  the keys' and the head weights' products in one, split over k
#pragma once

#include "optimized/support/call.h"
#include "optimized/support/case.h"
#include "optimized/support/rotary.h"

namespace dsa {

struct IndexerProject {
    const bf16* x;                  // [T, D], normalised
    const bf16* c_q;                // [T, R_q]
    const std::int32_t* positions;  // [T]
    const bf16* W_qI;               // [R_q, H_I, D_I]
    const bf16* W_kI;               // [D, D_I]
    const float* k_norm;            // [D_I]
    const float* k_bias;            // [D_I]
    const bf16* W_w;                // [D, H_I]; null where W_w_float32 is given
    const float* W_w_float32;
    e4m3* q;       // [T, H_I, D_I]; null where nothing is quantised
    bf16* q_bf16;  // the same, for Quantizer::none
    e4m3* k;       // [T, D_I]
    bf16* k_bf16;
    float* k_scale;            // [T]
    float* weights;            // [T, H_I]
    float* q_scale = nullptr;  // [T, H_I], for whoever traces; null: not kept
    // Keys straight into a cache of pages, 64 keys and then their 64 scales, in the place of k and k_scale: level 4.
    std::uint8_t* key_pages = nullptr;
    const std::int32_t* key_slots = nullptr;  // [T], page x 64 + place
    std::int64_t T, D, R_q, H_I, D_I;
    float eps;
    float factor;       // of the weights: H_I^-0.5 D_I^-0.5
    bool weights_bf16;  // x W_w is stored as bf16
    RopeTable rope;     // of the first d_rope numbers
    RopeLayout layout;
    bool hadamard;
    Quantizer quantizer;
    bool ue8m0;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

// The chosen level, for layers that hold such a call.
void indexer_project(const IndexerProject& call);
std::int64_t indexer_project_workspace(const IndexerProject& call);

// What follows a product, for queries (N = H_I) and keys (N = 1): rope, Hadamard, quantisation.
struct IndexerVectors {
    const bf16* x;                  // [T, N, D_I]
    const std::int32_t* positions;  // [T]
    e4m3* y;                        // [T, N, D_I]; null where nothing is quantised
    bf16* y_bf16;                   // the same, for Quantizer::none
    float* scale;                   // [T, N] or null
    float* weights;                 // [T, N] or null: x W_w, which becomes x W_w factor scale
    std::int64_t T, N;
    int D_I;
    float factor;
    bool weights_bf16;
    RopeTable rope;
    RopeLayout layout;
    bool hadamard;
    Quantizer quantizer;
    bool ue8m0;
    Stream stream;
};

inline constexpr int widest_indexer_vector = 1024;

void indexer_vectors_level_1(const IndexerVectors& call);
void indexer_vectors_level_2(const IndexerVectors& call);
std::string indexer_vectors_level_2_declines(const IndexerVectors& call);

// Queries [T, H_I, D_I] and keys [T, D_I] from their products to what call asks for, of which weights hold x W_w.
void indexer_one_pass(const IndexerProject& call, const bf16* q, const bf16* k);
std::string indexer_one_pass_declines(const IndexerProject& call);

// x W_kI to k [T, D_I] and x W_w to call.weights.
void indexer_narrow_products(const IndexerProject& call, bf16* k);
std::string indexer_narrow_products_declines(const IndexerProject& call);

}  // namespace dsa
