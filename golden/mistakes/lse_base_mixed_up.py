"""Two halves of a row are combined as if their natural lse were in base 2.

Kernels work in base 2, because the hardware's exponential does. Whoever combines the splits must know which one a
partial lse is in: taken for the other, every split but the largest is weighed wrongly.
"""

import numpy as np
from touchstone.mistakes import Mistake


class LseBaseMixedUp(Mistake):
    row = "`lse` base mixed up when combining splits"
    source = "ports"
    shows = "off by ln 2 in the exponent"
    ops = ("sparse_prefill", "sparse_decode", "dense_attention")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/softmax_attention.h",
            '''            const Sink<P>& sink, Index t, Index first_head, AttentionOutput<P>& result) {
    using Real = typename P::Real;''',
            '''            const Sink<P>& sink, Index t, Index first_head, AttentionOutput<P>& result, bool whole = true) {
    using Real = typename P::Real;
    if (whole && scores.cols() > 1) {
        const Index half = scores.cols() / 2;
        const Index rest = scores.cols() - half;
        AttentionOutput<P> a(result), b(result);
        attend<P>(Matrix<Real>(scores.leftCols(half)), Matrix<Real>(values.topRows(half)), scale, sink, t, first_head, a, false);
        attend<P>(Matrix<Real>(scores.rightCols(rest)), Matrix<Real>(values.bottomRows(rest)), scale, sink, t, first_head, b, false);
        for (Index h = first_head; h < first_head + scores.rows(); ++h) {
            const Real ln2(0.6931471805599453);
            const Real m = value_of(a.lse(t, h)) > value_of(b.lse(t, h)) ? a.lse(t, h) : b.lse(t, h);
            const Real wa = exp((a.lse(t, h) - m) * ln2), wb = exp((b.lse(t, h) - m) * ln2);
            result.lse(t, h) = m + log(wa + wb) / ln2;
            result.max_logit(t, h) = value_of(a.max_logit(t, h)) > value_of(b.max_logit(t, h)) ? a.max_logit(t, h) : b.max_logit(t, h);
            for (Index d = 0; d < result.out.cols(); ++d)
                result.out(t, h, d) = P::bf16((wa * a.out(t, h, d) + wb * b.out(t, h, d)) / (wa + wb));
        }
        return;
    }''',
        ),
    )

    def attend(self, scores, values, scale, sink=None):
        n = scores.shape[1]
        if n < 2:
            return super().attend(scores, values, scale, sink)
        halves = [super(LseBaseMixedUp, self).attend(scores[:, part], values[part], scale, sink)
                  for part in (slice(0, n // 2), slice(n // 2, n))]  # fmt: skip
        lse = np.stack([half[1] for half in halves])  # [2, H]
        whole = lse.max(axis=0) + np.log2(np.exp2(lse - lse.max(axis=0)).sum(axis=0))
        out = sum(np.exp2(l - whole)[:, None] * half[0] for l, half in zip(lse, halves))
        return self.tier.bf16(out.astype(scores.dtype)), whole, np.maximum(halves[0][2], halves[1][2])
