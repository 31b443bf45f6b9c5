/* A kernel of one's own in C: gcc -shared -fPIC -O2 -Igolden golden/examples/top_k.c -o build/libtop_k.so
 * and `touchstone check --lib build/libtop_k.so`. Its scratch memory is the workspace that it asked for. */
#include "dsa.h"

int64_t dsa_top_k_workspace(const dsa_top_k_args* a) { return a->logits.shape[1]; }

int dsa_top_k(const dsa_top_k_args* a) {
    const int64_t S = a->logits.shape[1];
    char* taken = a->workspace;
    for (int64_t t = 0; t < a->logits.shape[0]; ++t) {
        const float* row = (const float*)a->logits.data + t * a->logits.stride[0];
        int32_t* indices = (int32_t*)a->indices.data + t * a->indices.stride[0];
        const int64_t first = ((const int32_t*)a->start.data)[t], last = ((const int32_t*)a->end.data)[t];
        const int64_t kept = last - first < a->topk ? last - first : a->topk;
        for (int64_t s = 0; s < S; ++s) taken[s] = 0;
        for (int64_t i = 0; i < kept; ++i) {
            int64_t best = -1;
            for (int64_t s = first; s < last; ++s)
                if (!taken[s] && (best < 0 || row[s] > row[best] || (row[best] != row[best] && row[s] == row[s]))) best = s;
            taken[best] = 1;
        }
        int64_t used = 0;
        for (int64_t s = first; s < last; ++s)
            if (taken[s]) indices[used++] = (int32_t)s;
        while (used < a->topk) indices[used++] = -1;
    }
    return 0;
}
