"""The indexer's inputs are not detached: its loss trains the main model too.

The indexer reads the hidden states and the query latent. Without a detach the KL loss flows on into the projections that
made them, and the model bends to what its indexer can predict. In warm-up nothing shows: the main model is frozen.
"""

from touchstone.mistakes import Mistake


class GradientLeaksIntoTheMainModel(Mistake):
    row = "target of the KL loss averaged before softmax, or not renormalised on the selected set; gradient leaking into the main model"
    source = "Megatron-LM#4894"
    shows = "the main model's gradients are no longer those of the language loss alone"
    ops = ("training_step",)
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/training/forward.h",
            "detached(x), detached(c_q))",
            "x, c_q)",
        ),
    )

    def through_the_indexer(self, to_x, to_c_q):
        return to_x, to_c_q
