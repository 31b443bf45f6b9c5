"""A whole model on the CUDA tree's C functions: prefill and greedy decoding, the caches kept on the device.

No framework: ctypes on libdsa_optimized.so (a GPU's memory) or libdsa_simulated.so (the host's).
"""

from .model import Model

__all__ = ["Model"]
