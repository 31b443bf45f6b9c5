// How the indexer learns: KL(p_t || softmax(I_t)), I(t, s) = sum_j w(t, j) ReLU(q(t, j) . k(s)), and its gradients.
// Sums over queries are added in the order of the queries. spec section 7.
//
// level 1  a thread a score; one block a head's dq, one block a key's dk, which compute the dots again
// level 2  a tile of keys in shared memory for 16 heads
#pragma once

#include "optimized/attention_target/op.h"

namespace dsa {

struct IndexerKlLoss {
    const float* q;                  // [T, H_I, D_I]
    const float* k;                  // [S, D_I]
    const float* weights;            // [T, H_I]
    const float* p;                  // [T, n], or null: it is made from `target`
    const std::int32_t* indices;     // [T, k], or null: all causal positions
    AttentionTarget target;          // q_mla and kv, where p is null
    float* loss;                     // [1]
    float* dq;                       // [T, H_I, D_I]
    float* dk;                       // [S, D_I]
    float* dweights;                 // [T, H_I]
    std::int64_t T, S, H_I, D_I, n;  // n = k or S
    float coefficient;
    bool mean;  // over queries that have a candidate, else the sum
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

std::int64_t indexer_kl_loss_workspace(const IndexerKlLoss& call);

// For a layer that needs the scores for itself: `indexer_kl_loss` in its three parts. indices is null, p is given.
// scores: [T, S], -inf behind the query; a position may be taken out by -inf before the loss is computed, which needs
// call.p and makes dL/dI of them, before the factor; the gradients need that. factor: [1].
void indexer_kl_scores(const IndexerKlLoss& call, float* scores, int level);
void indexer_kl_loss_of_scores(const IndexerKlLoss& call, float* scores, float* factor);
void indexer_kl_gradients(const IndexerKlLoss& call, const float* d_scores, const float* factor, int level);
std::int64_t indexer_kl_parts_workspace(const IndexerKlLoss& call);  // which each of them uses

void indexer_kl_loss_level_1(const IndexerKlLoss& call);
void indexer_kl_loss_level_2(const IndexerKlLoss& call);
std::string indexer_kl_loss_level_2_declines(const IndexerKlLoss& call);

}  // namespace dsa
