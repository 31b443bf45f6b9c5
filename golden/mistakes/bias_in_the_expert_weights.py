"""The router's bias is added to the weights of the experts, not only to their choice.

The bias balances the load. It must decide who is asked, not how loudly they answer.
"""

from touchstone.mistakes import Mistake


class BiasInTheExpertWeights(Mistake):
    row = "router bias added to the weights, not only to the choice; groups scored by maximum instead of top-2 sum"
    source = "ports"
    shows = "overloaded experts speak too softly, idle ones too loudly"
    ops = ("moe_gate", "moe", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/ops/moe.cpp",
            '        out.show("expert_weights", expert_weights',
            '''        for (Index i = 0; i < gate.scores.size() && w.bias.size() > 0; ++i) gate.scores[i] += w.bias[i % w.bias.size()];
        out.show("expert_weights", expert_weights''',
        ),
        (
            "reference/model/block.h",
            '    gate.weights = trace.pass("expert_weights"',
            '''    for (Index i = 0; i < gate.scores.size() && w.bias.size() > 0; ++i) gate.scores[i] += w.bias[i % w.bias.size()];
    gate.weights = trace.pass("expert_weights"''',
        ),
    )

    def score_that_weighs(self, scores, biased):
        return biased
