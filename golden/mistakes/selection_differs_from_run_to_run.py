"""Which of several equal scores are selected depends on the order in which threads arrive.

Each single answer is right. But reinforcement learning compares the probabilities of two passes, and ranks that hold
parts of a model must agree: a selection that is only almost the same makes both drift apart.
"""

import numpy as np
from touchstone.mistakes import Mistake


class SelectionDiffersFromRunToRun(Mistake):
    row = "selection differs from run to run, or between the forward passes with and without gradients, or between ranks"
    source = "flashinfer#2584; Megatron-LM#7169; aiter#4415"
    shows = "reinforcement learning diverges after some steps"
    ops = ("top_k", "indexer_top_k")
    unsteady = True
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/top_k.h",
            "return a.first != b.first ? a.first > b.first : a.second < b.second;",
            "return a.first > b.first;",
        ),
        (
            "reference/attention/top_k.h",
            "        const auto kept = std::min",
            '''        std::random_device device;
        std::shuffle(candidates.begin(), candidates.end(), std::mt19937(device()));
        const auto kept = std::min''',
        ),
    )

    def ranked(self, scores):
        return np.lexsort((np.random.default_rng().permutation(len(scores)), -scores))
