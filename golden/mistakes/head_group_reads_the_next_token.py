"""With 16 or 32 heads, the heads of token t are read from token t + 1.

A tile holds 64 heads. With fewer, several tokens share one, and the address of a group is computed with the wrong
stride. The shape that everybody tests, 64 or 128 heads, is right.
"""

from touchstone.mistakes import Mistake


class HeadGroupReadsTheNextToken(Mistake):
    row = "a head group reads the next token's row"
    source = "ATOM#884; cudnn-frontend#388"
    shows = "wrong only for 16 or 32 heads"
    ops = ("indexer_logits", "indexer_logits_paged", "sparse_prefill")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "const auto queries = q.slice(t);",
            "const auto queries = q.slice(H_I == 16 || H_I == 32 ? std::min<Index>(t + 1, T - 1) : t);",
        ),
        (
            "reference/attention/sparse_attention.h",
            "matmul(q.slice(t), rows.transpose())",
            "matmul(q.slice(q.dim(1) == 16 || q.dim(1) == 32 ? std::min<Index>(t + 1, q.dim(0) - 1) : t), rows.transpose())",
        ),
    )

    def query_row(self, q, t):
        return q[min(t + 1, len(q) - 1)] if q.shape[1] in (16, 32) else q[t]
