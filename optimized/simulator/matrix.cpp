#include "optimized/simulator/matrix.h"

#include <cstring>

#include "optimized/simulator/cluster.h"
#include "optimized/simulator/order.h"

namespace dsa::simulator {
namespace {

struct Mine {
    std::uint32_t* registers;
    std::byte* row;
};

// The two numbers of a lane's register in its 8 x 8 matrix: (row, column) each.
struct Places {
    unsigned row[2], column[2];
};
Places places(unsigned lane, bool transposed) {
    const unsigned g = lane / 4, p = lane % 4 * 2;
    if (transposed) return {{p, p + 1}, {g, g}};
    return {{g, g}, {p, p + 1}};
}

void check_row(const char* what, unsigned count, const void* row, Where where) {
    const Block& block = *this_thread().block;
    if (this_thread().lane() >= 8 * count) return;
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
        throw Fault(block.place(where) + what + " needs rows at multiples of 16 bytes");
    if (!block.holds(row, 16)) throw Fault(block.place(where) + what + " needs rows in the block's shared memory");
}

// Moves each number between `lanes`' rows and registers.
template <class Move>
void each_number(const std::uint64_t (&lanes)[32], unsigned count, bool transposed, Move move) {
    for (unsigned lane = 0; lane < 32; ++lane)
        for (unsigned m = 0; m < count; ++m) {
            const Places at = places(lane, transposed);
            for (unsigned i = 0; i < 2; ++i) {
                std::byte* row = reinterpret_cast<const Mine*>(lanes[8 * m + at.row[i]])->row;
                auto* held = reinterpret_cast<std::byte*>(reinterpret_cast<const Mine*>(lanes[lane])->registers + m);
                move(held + 2 * i, row + std::size_t{2} * at.column[i]);
            }
        }
}

}  // namespace

void load_matrices(std::uint32_t* registers, unsigned count, bool transposed, const void* row, Where where) {
    check_row("ldmatrix", count, row, where);
    const Thread& self = this_thread();
    const Mine mine{registers, static_cast<std::byte*>(const_cast<void*>(row))};
    if (self.lane() < 8 * count) order().reads(self, row, 16, where);
    self.block->exchange(0xffffffffU, reinterpret_cast<std::uint64_t>(&mine), "ldmatrix", where,
                         [&](const std::uint64_t (&lanes)[32]) {
                             each_number(lanes, count, transposed, [](std::byte* held, const std::byte* in_memory) {
                                 std::memcpy(held, in_memory, 2);
                             });
                         });
}

void store_matrices(const std::uint32_t* registers, unsigned count, bool transposed, void* row, Where where) {
    check_row("stmatrix", count, row, where);
    const Thread& self = this_thread();
    const Mine mine{const_cast<std::uint32_t*>(registers), static_cast<std::byte*>(row)};
    if (self.lane() < 8 * count) order().writes(self, row, 16, where);
    self.block->exchange(0xffffffffU, reinterpret_cast<std::uint64_t>(&mine), "stmatrix", where,
                         [&](const std::uint64_t (&lanes)[32]) {
                             each_number(lanes, count, transposed, [](const std::byte* held, std::byte* in_memory) {
                                 std::memcpy(in_memory, held, 2);
                             });
                         });
}

}  // namespace dsa::simulator
