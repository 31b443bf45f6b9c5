"""MLA's query is read with the rotated part first instead of last.

The mirror image of the indexer's mistake: the first 64 numbers of each head's query are taken for the rotated part.
"""

from touchstone.mistakes import Mistake


class MlaRopeFirst(Mistake):
    row = "rope dims taken last instead of first in the indexer (or first in MLA)"
    source = "ports"
    shows = "fluent text at first, then repetition"
    ops = ("mla_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/mla.h",
            "out.q_nope = last_axis(q, 0, d_nope);",
            "out.q_nope = last_axis(q, d_rope, d_nope);",
        ),
        (
            "reference/attention/mla.h",
            "out.q_rope = last_axis(q, d_nope, d_rope);",
            "out.q_rope = last_axis(q, 0, d_rope);",
        ),
    )

    def query_parts(self, q, d_nope):
        d_rope = q.shape[-1] - d_nope
        return q[..., d_rope:], q[..., :d_rope]
