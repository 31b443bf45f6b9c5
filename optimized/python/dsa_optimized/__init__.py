"""The CUDA tree from Python: ops on arrays that speak DLPack (Library), and a whole model on them, with flat caches for one
sequence (Model) or with pages for many (PagedModel).

No framework is needed: the extension _native calls the functions of golden/dsa.h in libdsa_optimized.so (a GPU's memory)
or libdsa_simulated.so (the host's). With PyTorch, dsa_optimized.torch_ops makes torch.ops.dsa of them.
"""

try:
    from ._native import BadArgument, LaunchFailed, Misaligned, NoDevice
except ImportError as error:
    raise ImportError(f"the extension dsa_optimized._native is not built for this Python ({error}): pip install ./optimized/python") from None
from .library import Library
from .model import Model
from .paged_model import PagedModel

__all__ = ["BadArgument", "LaunchFailed", "Library", "Misaligned", "Model", "NoDevice", "PagedModel"]
