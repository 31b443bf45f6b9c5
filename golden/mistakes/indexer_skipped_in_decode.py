"""While decoding, the most recent tokens are taken instead of the selected ones.

A sliding window is a good guess, so the text reads well. But the answer now depends on how many tokens were prefilled
together.
"""

import numpy as np
from touchstone.mistakes import Mistake


class IndexerSkippedInDecode(Mistake):
    row = "indexer skipped in decode; prefill and decode disagree"
    source = "ports"
    shows = "the answer changes with chunking"
    ops = ("dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/model/attention_block.h",
            '''    const Array<std::int32_t> indices =
        trace.pass("topk_indices", top_k(logits,''',
            '''    Tensor<P> recency(logits);
    for (Index i = 0; i < recency.size(); ++i)
        if (S > T) recency[i] = typename P::Real(static_cast<double>(i % S));
    const Array<std::int32_t> indices =
        trace.pass("topk_indices", top_k(recency,''',
        ),
    )

    def positions_chosen(self, logits, start, end, k, cached):
        if cached:
            logits = np.broadcast_to(np.arange(logits.shape[1], dtype=logits.dtype), logits.shape)
        return super().positions_chosen(logits, start, end, k, cached)
