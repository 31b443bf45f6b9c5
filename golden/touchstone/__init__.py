"""Touchstone: the oracle for DeepSeek Sparse Attention (V3.2).

The questions are cases (docs/case-format.md), the answers are goldens, and `touchstone check` judges an
implementation against them.
"""

__version__ = "0.1.0"


class Refusal(ValueError):
    """Input that cannot be used. The text is one sentence: what was expected, what came, how to mend it."""


class Missing(Refusal):
    """Something that is not installed, or is not there: no case can be asked."""


def require(holds: bool, sentence: str) -> None:
    """A precondition and its sentence."""
    if not holds:
        raise Refusal(sentence)

