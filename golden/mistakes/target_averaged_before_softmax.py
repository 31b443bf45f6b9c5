"""The KL target averages the heads' scores before the softmax.

The target is the sum of the heads' probabilities. The softmax of their mean score is cheaper, and is the geometric
instead of the arithmetic mean: what only one head looks at disappears.
"""

from touchstone.mistakes import Mistake


class TargetAveragedBeforeSoftmax(Mistake):
    row = "target of the KL loss averaged before softmax, or not renormalised on the selected set; gradient leaking into the main model"
    source = "Megatron-LM#2154, #4894"
    shows = "the indexer trains, to the wrong thing"
    ops = ("attention_target", "indexer_kl_loss")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/training/attention_target.h",
            '''    for (Index h = 0; h < scores.rows(); ++h) {
        const Softmax<P> softmax(scores.row(h).array() * P::constant(scale));
        total += softmax.exponentials * (Real(1.0) / softmax.sum);
    }''',
            '''    Eigen::Array<Real, 1, Eigen::Dynamic> mean = total;
    for (Index h = 0; h < scores.rows(); ++h) mean += scores.row(h).array() * P::constant(scale / static_cast<double>(scores.rows()));
    const Softmax<P> softmax(mean);
    total += softmax.exponentials * (Real(static_cast<double>(scores.rows())) / softmax.sum);''',
        ),
    )

    def head_probabilities(self, scores, scale):
        return self.softmax(scores.mean(axis=0) * self.tier.real(scale))
