// Which slots of a row of indices count? A selection is a set: -1 and everything else outside [0, S) is skipped, and
// an index that stands twice counts where it stands first. spec section 5.
#pragma once

#include "optimized/support/call.h"

namespace dsa {

// kept[r, i] = indices[r, i] where the slot counts, else -1. The same slots, whatever the order in which threads run.
// Each slot is compared with all before it: k^2 / 2 comparisons a row, any k.
// indices, kept: [rows, k]
void keep_selected_by_comparing(const std::int32_t* indices, std::int32_t* kept, std::int64_t rows, std::int64_t k,
                                std::int64_t S, Stream stream);
// By a table in shared memory, about two looks a slot; rows that are too long for it are compared.
void keep_selected(const std::int32_t* indices, std::int32_t* kept, std::int64_t rows, std::int64_t k, std::int64_t S,
                   Stream stream);

}  // namespace dsa
