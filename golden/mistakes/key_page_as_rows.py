"""A page of indexer keys is read as 64 rows of key and scale.

8448 = 64 x 132, so the shapes agree. The page holds 64 keys first and their 64 scales behind all of them.
"""

import numpy as np
from touchstone.mistakes import Mistake


class KeyPageAsRows(Mistake):
    row = "key page read as 64 rows of 132 bytes"
    source = "ports"
    shows = "scales are keys"
    ops = ("indexer_logits_paged", "pack_key_pages")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/kv_cache.h",
            "page[offset * layout.D_I + i]",
            "page[offset * (layout.D_I + 4) + i]",
        ),
        (
            "reference/attention/kv_cache.h",
            "detail::put_bytes(page + layout.scales_at() + 4 * offset, k_scale[s]);",
            "detail::put_bytes(page + offset * (layout.D_I + 4) + layout.D_I, k_scale[s]);",
        ),
        (
            "reference/attention/kv_cache.h",
            "bytes[offset * layout.D_I + i]",
            "bytes[offset * (layout.D_I + 4) + i]",
        ),
        (
            "reference/attention/kv_cache.h",
            "detail::get_bytes<float>(bytes + layout.scales_at() + 4 * offset)",
            "detail::get_bytes<float>(bytes + offset * (layout.D_I + 4) + layout.D_I)",
        ),
    )

    def read_key_page(self, page, D_I):
        rows = page.reshape(64, D_I + 4)
        return self.from_e4m3(rows[:, :D_I]), self.from_float32_bytes(rows[:, D_I:])[:, 0]

    def write_key_page(self, keys, scales):
        return np.concatenate([keys, scales.astype("<f4")[:, None].view(np.uint8)], axis=1).reshape(-1)
