/* The C interface of a serving step: the forward of an attention block, or of a whole transformer block, for the new
 * tokens of B requests, whose context lies in pages. It is no op of the contract (dsa.h): no golden asks it. Structs,
 * statuses, dsa_last_error(), dsa_show() and dsa_choose_level() are those of dsa.h.
 *
 * A request has s_q new tokens, a row of x (of hidden) each; context_lens[b] counts its tokens with the new ones.
 * Token p of request b lies in page block_table[b, p / 64], at p % 64; query i of s_q stands at p = context_len - s_q
 * + i and sees the tokens 0 to p.
 *
 * kv_pages and k_pages are read, and each new token is written into its slot: no other byte is touched. Requests may
 * share pages that they only read. A token without a slot (p below 0 or beyond 64 P, or a page that is not there) is
 * not written; a context_len of 0 is a request that is not there, whose attention is to nothing: 0 in
 * an attention block's rows of y, in a transformer block's what the net makes of hidden alone.
 *
 * block_table, context_lens and positions are read on the device, during the call: a captured graph takes their
 * contents at each replay. The pages are FP8 whatever the convention kv_latent_fp8 says. */
#ifndef DSA_SERVING_H
#define DSA_SERVING_H
#include "golden/dsa.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct dsa_serving_step_args {
    dsa_tensor x;            /* [B s_q, D], normalised */
    dsa_tensor positions;    /* [B s_q], of the rotary embedding */
    dsa_tensor W_dq;         /* [D, R_q] */
    dsa_tensor q_norm;       /* [R_q] */
    dsa_tensor W_uq;         /* [R_q, H, d_q] */
    dsa_tensor W_dkv;        /* [D, d] */
    dsa_tensor kv_norm;      /* [R_kv] */
    dsa_tensor W_uk;         /* [R_kv, H, d_nope] */
    dsa_tensor W_uv;         /* [R_kv, H, d_v] */
    dsa_tensor W_o;          /* [H, d_v, D] */
    dsa_tensor W_qI;         /* [R_q, H_I, D_I] */
    dsa_tensor W_kI;         /* [D, D_I] */
    dsa_tensor k_norm;       /* [D_I] */
    dsa_tensor k_bias;       /* [D_I] */
    dsa_tensor W_w;          /* [D, H_I] */
    dsa_tensor kv_pages;     /* [pages, 64, R_kv + 4 R_kv / 128 + 2 d_rope], as pack_kv_pages; read and written */
    dsa_tensor k_pages;      /* [pages, 64 (D_I + 4)], as pack_key_pages; read and written */
    dsa_tensor block_table;  /* [B, P] */
    dsa_tensor context_lens; /* [B] */
    dsa_tensor y;            /* [B s_q, D], output */
    int64_t topk;
    double scale;
    double eps;
    const char* case_json;
    void* workspace;
    int64_t workspace_bytes;
    void* stream;
} dsa_serving_step_args;
int dsa_serving_step(const dsa_serving_step_args* args);
int64_t dsa_serving_step_workspace(const dsa_serving_step_args* args);

/* A whole transformer block: y = h + net(RMSNorm(h)), h = hidden + attention(RMSNorm(hidden)). The net is a mixture
 * of experts where W_g is given, with W_gate, W_up [E, D, F] and W_down [E, F, D]; else a dense one, of the same
 * without E. A matrix of the net may be bf16, float32, or e4m3 with a scale for 128 x 128. Fields that a net does not
 * have stay zero. y may lie where hidden does. */
typedef struct dsa_serving_block_step_args {
    dsa_tensor hidden;         /* [B s_q, D] */
    dsa_tensor positions;      /* [B s_q], of the rotary embedding */
    dsa_tensor attention_norm; /* [D] */
    dsa_tensor ffn_norm;       /* [D] */
    dsa_tensor W_dq;           /* to W_w as in dsa_serving_step_args */
    dsa_tensor q_norm;
    dsa_tensor W_uq;
    dsa_tensor W_dkv;
    dsa_tensor kv_norm;
    dsa_tensor W_uk;
    dsa_tensor W_uv;
    dsa_tensor W_o;
    dsa_tensor W_qI;
    dsa_tensor W_kI;
    dsa_tensor k_norm;
    dsa_tensor k_bias;
    dsa_tensor W_w;
    dsa_tensor W_g;                 /* [D, E]; without it the net is dense */
    dsa_tensor bias;                /* [E], of the gate */
    dsa_tensor W_gate;              /* [E, D, F] or [D, F] */
    dsa_tensor W_up;                /* [E, D, F] or [D, F] */
    dsa_tensor W_down;              /* [E, F, D] or [F, D] */
    dsa_tensor W_gate_scale;        /* [E, ceil(D / 128), ceil(F / 128)], of e4m3 */
    dsa_tensor W_up_scale;          /* likewise */
    dsa_tensor W_down_scale;        /* likewise, F and D exchanged */
    dsa_tensor shared_W_gate;       /* [D, F_s], of the expert that all tokens share; optional */
    dsa_tensor shared_W_up;         /* [D, F_s] */
    dsa_tensor shared_W_down;       /* [F_s, D] */
    dsa_tensor shared_W_gate_scale; /* of e4m3 */
    dsa_tensor shared_W_up_scale;
    dsa_tensor shared_W_down_scale;
    dsa_tensor kv_pages; /* to context_lens as in dsa_serving_step_args */
    dsa_tensor k_pages;
    dsa_tensor block_table;
    dsa_tensor context_lens;
    dsa_tensor y; /* [B s_q, D], output */
    int64_t topk;
    int64_t groups;      /* of experts; 8 where it is 0 */
    int64_t kept_groups; /* 4 where it is 0 */
    int64_t active;      /* experts a token; 8 where it is 0 */
    int64_t normalise;   /* whether the active experts' weights are made to sum to 1 */
    double scale;
    double eps;
    double route_scale; /* 2.5 where it is 0 */
    const char* case_json;
    void* workspace;
    int64_t workspace_bytes;
    void* stream;
} dsa_serving_block_step_args;
int dsa_serving_block_step(const dsa_serving_block_step_args* args);
int64_t dsa_serving_block_step_workspace(const dsa_serving_block_step_args* args);

#ifdef __cplusplus
}
#endif
#endif
