"""Where do a library's tensors lie? In the host's memory, or in a GPU's, reached through its driver and nothing else.

Each tensor lies between guards of poison, which tell afterwards whether somebody wrote beyond it.
"""

from __future__ import annotations

import ctypes

import numpy as np

from . import Refusal, require

GUARD = 4096  # bytes before and after each tensor that nobody may touch; a multiple of any alignment that kernels want
POISON = 0xA5


class DeviceLost(Refusal):
    """A kernel failed in a way after which this process can use the GPU no more."""


class HostMemory:
    """The host's own."""

    def __init__(self):
        self.blocks: dict[int, np.ndarray] = {}

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, at a multiple of 64."""
        array = np.empty(size + 64, np.uint8)
        address = array.ctypes.data + -array.ctypes.data % 64
        self.blocks[address] = array
        return address

    def free(self, address: int) -> None:
        del self.blocks[address]

    def write(self, address: int, data: np.ndarray) -> None:
        ctypes.memmove(address, data.ctypes.data, data.nbytes)

    def read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)

    def copy(self, to: int, address: int, size: int) -> None:
        ctypes.memmove(to, address, size)

    def fill(self, address: int, size: int, byte: int) -> None:
        ctypes.memset(address, byte, size)

    def synchronise(self) -> None:
        """Functions of the host have returned when they return."""


class DeviceMemory:
    """The first GPU's, through the CUDA driver API, in the context that the CUDA runtime uses too (the primary one).

    driver: libcuda, or what stands in for it in a test.
    """

    def __init__(self, driver=None):
        if driver is None:
            try:
                driver = ctypes.CDLL("libcuda.so.1")
            except OSError:
                raise Refusal("the library wants device memory, and this machine has no NVIDIA driver (libcuda.so.1): "
                              "run the check on a machine with a GPU") from None  # fmt: skip
        self.driver = driver
        self._call("cuInit", ctypes.c_uint(0))
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def _call(self, name: str, *arguments) -> None:
        status = getattr(self.driver, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self.driver.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
            raise Refusal(f"the GPU's driver answered {name} with error {status}, {(text.value or b'unknown').decode()}")

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, at a multiple of 256."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def write(self, address: int, data: np.ndarray) -> None:
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes))

    def read(self, address: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(size)
        self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(address), ctypes.c_size_t(size))
        return data.raw

    def copy(self, to: int, address: int, size: int) -> None:
        self._call("cuMemcpyDtoD_v2", ctypes.c_uint64(to), ctypes.c_uint64(address), ctypes.c_size_t(size))

    def fill(self, address: int, size: int, byte: int) -> None:
        self._call("cuMemsetD8_v2", ctypes.c_uint64(address), ctypes.c_ubyte(byte), ctypes.c_size_t(size))

    def synchronise(self) -> None:
        """Waits for all kernels. What went wrong in one of them is told here, and the context is lost with it."""
        try:
            self._call("cuCtxSynchronize")
        except Refusal as refusal:
            raise DeviceLost(f"a kernel failed: {refusal}") from None


class Guarded:
    """A tensor's bytes in some memory, between guards; poisoned where nothing is given."""

    def __init__(self, memory, shape: tuple, dtype: np.dtype, data: np.ndarray | None = None):
        self.memory, self.shape, self.dtype = memory, shape, dtype
        self.size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.begin = memory.allocate(self.size + 2 * GUARD)
        self.address = self.begin + GUARD
        memory.fill(self.begin, self.size + 2 * GUARD, POISON)
        if data is not None and self.size:
            memory.write(self.address, np.ascontiguousarray(data))

    def read(self) -> np.ndarray:
        """What it holds now."""
        data = self.memory.read(self.address, self.size) if self.size else b""
        return np.frombuffer(bytearray(data), self.dtype).reshape(self.shape)

    def touched(self) -> str:
        """Which end was written over, or nothing."""
        if self.memory.read(self.begin, GUARD) != bytes([POISON]) * GUARD:
            return "before its first"
        return "after its last" if self.memory.read(self.address + self.size, GUARD) != bytes([POISON]) * GUARD else ""

    def free(self) -> None:
        """Gives the memory back."""
        self.memory.free(self.begin)


def memory_of(library) -> HostMemory | DeviceMemory:
    """Where a loaded library of dsa.h wants its tensors."""
    wants = hasattr(library, "dsa_wants_device_memory") and library.dsa_wants_device_memory()
    return DeviceMemory() if wants else HostMemory()


def require_whole(tensor: Guarded, op: str, name: str) -> None:
    """Refuses an op that wrote beyond a tensor."""
    touched = tensor.touched()
    require(not touched, f"dsa_{op} wrote beyond {name}: {touched} byte")
