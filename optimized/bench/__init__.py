"""Measuring kernels on a GPU, and the receipts of what was measured. docs/22-measuring-honestly.md."""
