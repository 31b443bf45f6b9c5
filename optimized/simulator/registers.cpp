#include "optimized/simulator/registers.h"

#include "optimized/simulator/cluster.h"

namespace dsa::simulator {

Registers::Registers(std::uint64_t threads)
    : of_warp_((threads + 31) / 32,
               static_cast<unsigned>(std::min<std::uint64_t>(65536 / std::max<std::uint64_t>(threads, 1), 255) / 8 * 8)),
      changes_(of_warp_.size()) {}

unsigned Registers::check(const char* what, unsigned count, Where where) const {
    if (count < 24 || count > 256 || count % 8 != 0)
        throw Fault(this_thread().block->place(where) + what + " needs a multiple of 8 from 24 to 256, not " +
                    std::to_string(count));
    return of_warp_[this_thread().warp()];
}

void Registers::decrease(unsigned count, Where where) {
    const Thread& self = this_thread();
    const unsigned now = check("setmaxnreg.dec", count, where);
    if (count > now)
        throw Fault(self.block->place(where) + "setmaxnreg.dec to " + std::to_string(count) +
                    " registers, but a thread of this warp has " + std::to_string(now));
    self.block->exchange(0xffffffffU, count, "setmaxnreg.dec", where, [&](const std::uint64_t (&)[32]) {
        in_pool_ += now - count;
        of_warp_[self.warp()] = count;
        changes_[self.warp()].push_back({false, count});
        self.block->cluster().schedule.look_at_conditions();
    });
}

void Registers::increase(unsigned count, Where where) {
    const Thread& self = this_thread();
    const unsigned now = check("setmaxnreg.inc", count, where);
    if (count < now)
        throw Fault(self.block->place(where) + "setmaxnreg.inc to " + std::to_string(count) +
                    " registers, but a thread of this warp has " + std::to_string(now));
    self.block->exchange(0xffffffffU, count, "setmaxnreg.inc", where);
    // The first lane to find enough takes for the whole warp.
    const auto taken = [this, &self, count] { return of_warp_[self.warp()] == count; };
    self.block->cluster().schedule.wait_until(
        [this, &self, taken, now, count] {
            if (!taken() && count - now <= in_pool_) {
                in_pool_ -= count - now;
                of_warp_[self.warp()] = count;
                changes_[self.warp()].push_back({true, count});
            }
            return taken();
        },
        [this, now, count, where] {
            return "setmaxnreg.inc from " + std::to_string(now) + " to " + std::to_string(count) +
                   " registers (the block has " + std::to_string(in_pool_) + " a thread of one warp to give) at " +
                   text_of(where);
        });
}

void Registers::check_at_the_end(const Block& block) const {
    for (std::size_t w = 0; w < changes_.size(); ++w)
        if (changes_[w] != changes_[w / 4 * 4])
            throw Fault("block " + text_of(block.index()) + ": warps " + std::to_string(w / 4 * 4) + " and " +
                        std::to_string(w) +
                        " are of one warpgroup and have not executed the same setmaxnreg instructions");
}

}  // namespace dsa::simulator
