#include "optimized/simulator/wgmma.h"

#include <bit>
#include <cstring>

#include "optimized/simulator/descriptor.h"
#include "optimized/simulator/half.h"
#include "optimized/simulator/mma.h"
#include "optimized/simulator/order.h"

namespace dsa::simulator {
namespace {

constexpr unsigned warp_rows = 16;  // of the 64
constexpr unsigned k_bytes = 32;    // K
constexpr std::uint32_t all_lanes = 0xffffffffU;
constexpr std::uint32_t under_way_bits = 0xffffffffU;

using Pieces = std::vector<const std::byte*>;  // of 16 bytes each

// Where the pieces of an operand lie: `count` rows from `first`. K-major: [rows, 2]; MN-major: [K, rows / 8].
Pieces pieces_of(const Block& block, std::uint64_t bits, bool is_mn_major, unsigned first, unsigned count,
                 const char* operand, Where where) {
    const Descriptor d = decoded(bits);
    if (d.base_offset != 0)
        throw Fault(block.place(where) + "wgmma's descriptor of " + operand + " has a base offset of " +
                    std::to_string(d.base_offset) + ": let the swizzle's pattern begin at a multiple of " +
                    std::to_string(8 * d.span) + " bytes, so that it is 0");
    if (d.span > 16 && d.start % (8 * d.span) >= d.span)
        throw Fault(block.place(where) + "wgmma's descriptor of " + operand + " starts at byte " +
                    std::to_string(d.start % (8 * d.span)) + " of the swizzle's pattern of " +
                    std::to_string(8 * d.span) + " bytes: it must start in the pattern's first row");
    Pieces pieces;
    const auto add = [&](std::uint32_t address) {
        const std::byte* piece = block.shared() + (std::int64_t{address} - shared_window);
        if (!block.holds(piece, 16))
            throw Fault(block.place(where) + "wgmma's descriptor of " + operand + " leads to byte " +
                        std::to_string(std::int64_t{address} - shared_window) +
                        " of shared memory, of which there are " + std::to_string(block.shape().shared_bytes));
        pieces.push_back(piece);
    };
    if (is_mn_major) {
        for (unsigned k = 0; k < k_bytes / 2; ++k)
            for (unsigned eight = first / 8; eight < (first + count) / 8; ++eight) add(mn_major(d, eight, k));
    } else {
        for (unsigned row = first; row < first + count; ++row)
            for (unsigned half = 0; half < 2; ++half) add(k_major(d, row, half));
    }
    return pieces;
}

// [count, K] from the pieces, as they are now.
template <class T>
std::vector<double> numbers_of(const Pieces& pieces, bool is_mn_major, unsigned count, bool negate) {
    constexpr unsigned depth = k_bytes / sizeof(T);
    std::vector<double> numbers(std::size_t{count} * depth);
    const double sign = negate ? -1.0 : 1.0;
    for (unsigned row = 0; row < count; ++row)
        for (unsigned k = 0; k < depth; ++k) {
            const std::size_t piece = is_mn_major ? k * (count / 8) + row / 8 : 2 * row + k * sizeof(T) / 16;
            const unsigned at = is_mn_major ? row % 8 : k % (16 / sizeof(T));
            numbers[row * depth + k] =
                sign * number_at(reinterpret_cast<const unsigned char*>(pieces[piece]), static_cast<int>(at), T{});
        }
    return numbers;
}

// A's fragment from registers has the picture of mma: hopper/mma.h.
std::vector<std::byte> rows_from_registers(const std::uint64_t (&lanes)[32]) {
    std::vector<std::byte> bytes(warp_rows * k_bytes);
    for (unsigned lane = 0; lane < 32; ++lane) {
        const std::uint32_t* a = reinterpret_cast<const Product*>(lanes[lane])->a_registers;
        for (unsigned i = 0; i < 4; ++i)
            std::memcpy(&bytes[(lane / 4 + i % 2 * 8) * k_bytes + i / 2 * 16 + lane % 4 * 4], &a[i], 4);
    }
    return bytes;
}

template <class T>
void add_product(std::vector<float>& values, const std::vector<double>& a, const std::vector<double>& b,
                 unsigned columns) {
    constexpr unsigned depth = k_bytes / sizeof(T);
    for (unsigned i = 0; i < warp_rows; ++i)
        for (unsigned j = 0; j < columns; ++j) {
            double sum = values[i * columns + j];
            for (unsigned k = 0; k < depth; ++k) sum += a[i * depth + k] * b[j * depth + k];
            values[i * columns + j] = static_cast<float>(sum);
        }
}

// Which element of the warp's [16, N] a lane's register i is.
std::size_t element_of(unsigned lane, unsigned i, unsigned columns) {
    return std::size_t{lane / 4 + i / 2 % 2 * 8} * columns + i / 4 * 8 + lane % 4 * 2 + i % 2;
}

}  // namespace

Products& products_of_this_block() {
    Block& block = *this_thread().block;
    if (!block.products) block.products = std::make_unique<Products>(block);
    return *block.products;
}

Products::Products(Block& block)
    : block_(block), warps_((block.threads().size() + 31) / 32), warpgroups_((warps_.size() + 3) / 4) {}

void Products::check_warpgroup(const char* what, Where where) const {
    const Thread& self = this_thread();
    if ((self.warpgroup() + 1) * 128 > block_.threads().size())
        throw Fault(block_.place(where) + what +
                    " is a warpgroup's: 128 threads from a multiple of 128; this one has " +
                    std::to_string(block_.threads().size() - self.warpgroup() * 128));
}

void Products::fence(Where where) {
    check_warpgroup("wgmma.fence", where);
    block_.exchange(all_lanes, 0, "wgmma.fence", where);
    warps_[this_thread().warp()].fenced = true;
}

void Products::agree(const Product& p, Where where) {
    const Thread& self = this_thread();
    Warp& warp = warps_[self.warp()];
    Warpgroup& group = warpgroups_[self.warpgroup()];
    const bool from_registers = p.a_registers != nullptr;
    const Signature mine{p.columns,  p.e4m3,     p.f16,      from_registers,  from_registers ? 0 : p.a, p.b,
                         p.add_to_d, p.negate_a, p.negate_b, p.a_is_mn_major, p.b_is_mn_major};
    const std::size_t at = warp.issued++ - group.forgotten;
    if (at == group.seen.size()) group.seen.push_back(mine);
    if (group.seen[at] != mine)
        throw Fault(block_.place(where) + "wgmma number " + std::to_string(warp.issued) + " of warp " +
                    std::to_string(self.warp()) +
                    " is not the one that another warp of the warpgroup has issued: shape, descriptors and scale-d "
                    "must be the same in all four");
    const std::size_t first = self.warpgroup() * 4;
    std::uint64_t slowest = warp.issued;
    for (std::size_t w = first; w < first + 4; ++w) slowest = std::min(slowest, warps_[w].issued);
    for (; group.forgotten < slowest; ++group.forgotten) group.seen.pop_front();
}

void Products::multiply(const Product& product, Where where) {
    check_warpgroup("wgmma.mma_async", where);
    block_.exchange(all_lanes, reinterpret_cast<std::uint64_t>(&product), "wgmma.mma_async", where,
                    [&](const std::uint64_t(&lanes)[32]) { issue(lanes, where); });
}

void Products::issue(const std::uint64_t (&lanes)[32], Where where) {
    const Thread& self = this_thread();
    Warp& warp = warps_[self.warp()];
    const Product& p = *reinterpret_cast<const Product*>(lanes[0]);
    for (unsigned lane = 1; lane < 32; ++lane) {
        const Product& other = *reinterpret_cast<const Product*>(lanes[lane]);
        if (other.b != p.b || other.a != p.a || other.add_to_d != p.add_to_d)
            throw Fault(block_.place(where) + "lanes 0 and " + std::to_string(lane) +
                        " bring different descriptors or scale-d to one wgmma");
    }
    agree(p, where);

    const unsigned first_row = self.warp() % 4 * warp_rows;
    Pieces a, b = pieces_of(block_, p.b, p.b_is_mn_major, 0, p.columns, "B", where);
    std::vector<std::byte> from_registers;
    if (p.a_registers == nullptr)
        a = pieces_of(block_, p.a, p.a_is_mn_major, first_row, warp_rows, "A", where);
    else
        from_registers = rows_from_registers(lanes);

    // Accumulators that are under way already, or from now on.
    const unsigned count = p.columns / 2;
    Accumulators* sums = nullptr;
    for (Accumulators& other : warp.under_way) {
        const float *const begin = other.of_lane[0], *const mine = p.d;
        if (begin == mine && other.count == count)
            sums = &other;
        else if (mine < begin + other.count && begin < mine + count)
            throw Fault(block_.place(where) +
                        "wgmma adds to registers of which a part is under way in the product at " +
                        text_of(other.where) + ": only products of one shape follow each other without a wait");
    }
    if (sums == nullptr) {
        if (!warp.fenced)
            throw Fault(block_.place(where) +
                        "wgmma needs wgmma.fence before it: its registers may have been used since the last wait");
        warp.under_way.push_back({{}, count, std::vector<float>(std::size_t{warp_rows} * p.columns), nullptr, where});
        sums = &warp.under_way.back();
        for (unsigned lane = 0; lane < 32; ++lane) {
            float* d = sums->of_lane[lane] = reinterpret_cast<const Product*>(lanes[lane])->d;
            for (unsigned i = 0; i < count; ++i) {
                sums->values[element_of(lane, i, p.columns)] = d[i];
                d[i] = std::bit_cast<float>(under_way_bits);
            }
        }
    }

    const Thread& lane_0 = block_.threads()[self.warp() * 32];
    auto ticket = std::make_shared<Progress>();
    const Operation operation = ticket->operation = order().begins(lane_0, Proxy::async, "wgmma.mma_async", where);
    for (unsigned lane = 1; lane < 32; ++lane) order().begins_also(operation, (&lane_0)[lane]);
    for (const std::byte* piece : a) order().reads(operation, piece, 16);
    for (const std::byte* piece : b) order().reads(operation, piece, 16);
    sums->last = ticket;
    warp.groups.add(ticket);

    const auto work = [p, a = std::move(a), b = std::move(b), sums, ticket,
                       from_registers = std::move(from_registers)]() mutable {
        for (std::size_t at = 0; at < from_registers.size(); at += 16) a.push_back(&from_registers[at]);
        if (!p.add_to_d) std::fill(sums->values.begin(), sums->values.end(), 0.0F);
        const auto add = [&]<class T>(T) {
            add_product<T>(sums->values, numbers_of<T>(a, p.a_is_mn_major, warp_rows, p.negate_a),
                           numbers_of<T>(b, p.b_is_mn_major, p.columns, p.negate_b), p.columns);
        };
        if (p.e4m3)
            add(e4m3{});
        else if (p.f16)
            add(Half{});
        else
            add(bf16{});
        ticket->has_read = ticket->done = true;
    };
    // In the order in which they were issued, as the sums depend on it.
    warp.last_due =
        block_.cluster().engine.later({work, {&block_}, {&self, "wgmma.mma_async", where}}, warp.last_due);
}

void Products::commit(Where where) {
    check_warpgroup("wgmma.commit_group", where);
    block_.exchange(all_lanes, 0, "wgmma.commit_group", where,
                    [this](const std::uint64_t(&)[32]) { warps_[this_thread().warp()].groups.commit(); });
}

void Products::wait(unsigned kept, Where where) {
    check_warpgroup("wgmma.wait_group", where);
    Warp& warp = warps_[this_thread().warp()];
    block_.exchange(all_lanes, kept, "wgmma.wait_group", where, [&](const std::uint64_t(&)[32]) {
        warp.waited = warp.groups.but_the_last(kept);
        warp.groups.forget_but_the_last(kept);
    });
    block_.cluster().schedule.wait_until(
        [&warp] {
            return std::all_of(warp.waited.begin(), warp.waited.end(), [](const Ticket& t) { return t->done; });
        },
        [where] { return "wgmma.wait_group at " + text_of(where); });
    deliver(warp, where);
    // All lanes have their sums before any goes on.
    block_.exchange(all_lanes, 0, "wgmma.wait_group", where, [&](const std::uint64_t(&)[32]) {
        std::erase_if(warp.under_way, [&](const Accumulators& sums) {
            return std::find(warp.waited.begin(), warp.waited.end(), sums.last) != warp.waited.end();
        });
        for (const Ticket& ticket : warp.waited) order().ends(ticket->operation);
        warp.waited.clear();
    });
}

void Products::deliver(Warp& warp, Where where) {
    Thread& self = this_thread();
    for (const Ticket& ticket : warp.waited) order().acquire(self, ticket->operation, Part::all);
    for (Accumulators& sums : warp.under_way) {
        if (std::find(warp.waited.begin(), warp.waited.end(), sums.last) == warp.waited.end()) continue;
        warp.fenced = false;
        float* d = sums.of_lane[self.lane()];
        for (unsigned i = 0; i < sums.count; ++i) {
            if (std::bit_cast<std::uint32_t>(d[i]) != under_way_bits)
                throw Fault(block_.place(where) + "accumulator " + std::to_string(i) + " of the wgmma at " +
                            text_of(sums.where) + " was written while the product was under way");
            d[i] = sums.values[element_of(self.lane(), i, 2 * sums.count)];
        }
    }
}

void Products::check_at_the_end(const Block& block) const {
    for (std::size_t w = 0; w < warps_.size(); ++w)
        if (!warps_[w].under_way.empty())
            throw Fault("block " + text_of(block.index()) + ", warp " + std::to_string(w) + ": the wgmma at " +
                        text_of(warps_[w].under_way.front().where) + " was never waited for (wgmma.wait_group)");
    const std::string missing = who_is_missing(block);
    if (!missing.empty()) throw Fault("block " + text_of(block.index()) + ":" + missing);
}

std::string Products::who_is_missing(const Block&) const {
    std::string text;
    for (std::size_t g = 0; g < warpgroups_.size(); ++g) {
        if (warpgroups_[g].seen.empty()) continue;
        text += " The warps of warpgroup " + std::to_string(g) + " have issued different numbers of wgmma:";
        for (std::size_t w = 4 * g; w < 4 * g + 4; ++w)
            text += (w > 4 * g ? ", " : " ") + std::to_string(warps_[w].issued);
        text += ".";
    }
    return text;
}

}  // namespace dsa::simulator
