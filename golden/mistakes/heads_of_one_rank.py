"""Only the first half of the indexer's heads is summed: those of one rank.

The indexer must be replicated, or its partial sums reduced, before anything is selected. A rank that selects by its
own heads attends to other tokens than its neighbour, and their outputs are then added up.
"""

from touchstone.mistakes import Mistake


class HeadsOfOneRank(Mistake):
    row = "wrong head slice under tensor parallelism: a group's selection differs by rank"
    source = "ports"
    shows = "quality falls with the number of ranks"
    ops = ("indexer_logits", "indexer_logits_paged", "indexer_top_k", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            '''            for (Index j = 0; j < H_I; ++j) {
                const Real weight''',
            '''            for (Index j = 0; j < (H_I + 1) / 2; ++j) {
                const Real weight''',
        ),
    )

    def head_sum(self, dots, weights):
        half = (len(weights) + 1) // 2
        return super().head_sum(dots[:half], weights[:half])
