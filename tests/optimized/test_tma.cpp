// Tensor copies against loops over the box's elements, and what a tensor map refuses.
#include "conformance/tma.cu"
#include "kernels.h"

namespace {

using namespace dsa;
using namespace dsa::conformance;
using namespace dsa::testing;

Bytes result_of(const std::string& name) {
    for (const Experiment& e : experiments())
        if (e.name == name) return e.run();
    FAIL("no experiment " << name);
    return {};
}

// Calls f(offset in the packed tile, element of the tensor or -1) for each byte of a box. A row of whole pieces goes
// on to the next multiple of 16 bytes.
template <class F>
void each_byte(const Example& e, Coordinates c, bool whole_pieces, F f) {
    const Tiled& t = e.how;
    std::int64_t in_box[5] = {};
    for (std::int64_t offset = 0; offset < static_cast<std::int64_t>(box_bytes(t)); ++offset) {
        const std::int64_t size = bytes_of(t.element);
        std::int64_t rest = offset / size, place = offset % size;
        bool inside = true;
        for (int d = 0; d < t.rank; ++d) {
            in_box[d] = rest % t.box[d] + c.at[d];
            rest /= t.box[d];
            auto extent = static_cast<std::int64_t>(t.extent[d]);
            if (d == 0 && whole_pieces) extent = (extent * size + 15) / 16 * 16 / size;
            inside = inside && in_box[d] >= 0 && in_box[d] < extent;
            place += in_box[d] * static_cast<std::int64_t>(t.stride[d]);
        }
        f(static_cast<std::uint32_t>(offset), inside ? place : -1);
    }
}

void check_load(const std::string& name, const Example& e, Coordinates at, int start = 0) {
    CAPTURE(name);
    const Bytes got = result_of("tma_load_" + name);
    std::vector<unsigned char> expected(tile_bytes, 0x55);
    each_byte(e, at, false, [&](std::uint32_t offset, std::int64_t place) {
        const std::uint32_t there = swizzled_offset(offset + static_cast<std::uint32_t>(start), e.how.swizzle);
        expected[there] = place < 0 ? 0 : e.bytes[static_cast<std::size_t>(place)];
    });
    CHECK(as<unsigned char>(got) == expected);
}

void check_store(const std::string& name, const Example& e, Coordinates at) {
    CAPTURE(name);
    const Bytes got = result_of("tma_store_" + name);
    std::vector<unsigned char> expected = e.bytes;
    each_byte(e, at, true, [&](std::uint32_t offset, std::int64_t place) {
        const std::uint32_t i = swizzled_offset(offset, e.how.swizzle);
        const std::uint32_t word = i / 4 * 0x9e3779b1U;
        if (place >= 0) expected[static_cast<std::size_t>(place)] = static_cast<unsigned char>(word >> 8 * (i % 4));
    });
    CHECK(as<unsigned char>(got) == expected);
}

std::string refusal_of_map(const Tiled& how) {
    try {
        tensor_map("x", how);
    } catch (const Refusal& refusal) {
        return refusal.what();
    }
    return {};
}

void loads_too_far(const __grid_constant__ TensorMap map) {
    Tile& memory = shared<Tile>();
    mbarrier_init(memory.full, 1);
    fence_mbarrier_init();
    tma_load(memory.bytes + tile_bytes - 1024, map, {0, 0}, memory.full);
}
void loads_to_an_odd_place(const __grid_constant__ TensorMap map) {
    tma_load(shared<Tile>().bytes + 64, map, {0, 0}, shared<Tile>().full);
}
void loads_with_three_coordinates(const __grid_constant__ TensorMap map) {
    tma_load(shared<Tile>().bytes, map, {0, 0, 0}, shared<Tile>().full);
}
void loads_from_an_odd_column(const __grid_constant__ TensorMap map) {
    tma_load(shared<Tile>().bytes, map, {3, 0}, shared<Tile>().full);
}

}  // namespace

TEST_CASE("tensor loads bring each element to its swizzled place, and zeros from outside") {
    with_seeds(3, [] {
        for (const Swizzle s : {Swizzle::none, Swizzle::bytes_32, Swizzle::bytes_64, Swizzle::bytes_128}) {
            const std::string name = "bf16_" + std::to_string(span_of(s));
            const int columns = s == Swizzle::none ? 64 : span_of(s) / 2;
            const Example e(Element::bf16, 2, {100, 40}, {columns, 24}, s);
            check_load(name, e, {{8, 3}});
            check_load(name + "_edge", e, {{88, 30}});
            check_load(name + "_before", e, {{-8, -5}});
            check_store(name, e, {{8, 3}});
            check_store(name + "_edge", e, {{88, 30}});
        }
        check_load("bf16_128_second_place", Example(Element::bf16, 2, {100, 40}, {64, 5}, Swizzle::bytes_128),
                   {{0, 0}}, 3 * 128);
        check_load("uint8_rank_1", Example(Element::uint8, 1, {1000}, {128}, Swizzle::none), {{944}});
        check_load("float32_rank_3", Example(Element::float32, 3, {20, 7, 5}, {8, 4, 3}, Swizzle::bytes_32),
                   {{16, 5, 3}});
        check_load("uint8_rank_4", Example(Element::uint8, 4, {40, 5, 4, 3}, {32, 3, 2, 2}, Swizzle::bytes_32),
                   {{16, 3, -1, 2}});
        const Example five(Element::int32, 5, {9, 4, 3, 3, 2}, {4, 2, 2, 2, 2}, Swizzle::none);
        check_load("int32_rank_5", five, {{8, 3, 1, 2, 0}});
        check_store("int32_rank_5", five, {{8, 3, 1, 2, 0}});
    });
}

TEST_CASE("tensor copies: sums, gathered rows, both blocks of a cluster") {
    const Example sums(Element::float32, 3, {20, 7, 5}, {8, 4, 3}, Swizzle::bytes_32);
    std::vector<float> expected(sums.bytes.size() / 4);
    each_byte(sums, {{16, 5, 3}}, true, [&](std::uint32_t offset, std::int64_t place) {
        if (place >= 0)
            expected[static_cast<std::size_t>(place / 4)] =
                static_cast<float>(swizzled_offset(offset, Swizzle::bytes_32) / 4 % 100);
    });
    CHECK(as<float>(result_of("tma_store_float32_added")) == expected);

    const Example rows(Element::bf16, 2, {64, 50}, {64, 1}, Swizzle::bytes_128);
    const auto gathered = as<unsigned char>(result_of("tma_gather_rows"));
    for (std::uint32_t i = 0; i < gathered.size(); ++i) {
        const std::uint32_t row = i / 128 * 17 % 60;
        REQUIRE(gathered[swizzled_offset(i, Swizzle::bytes_128)] == (row < 50 ? rows.bytes[row * 144 + i % 128] : 0));
    }
    const auto both = as<unsigned char>(result_of("tma_multicast"));
    for (std::uint32_t i = 0; i < both.size(); ++i)
        REQUIRE(both[i / 2048 * 2048 + swizzled_offset(i % 2048, Swizzle::bytes_128)] ==
                rows.bytes[(3 + i % 2048 / 128) * 144 + i % 128]);
}

TEST_CASE("what lies outside can be NaN") {
    Example e(Element::bf16, 2, {100, 40}, {64, 24}, Swizzle::none);
    alignas(16) static unsigned char tensor[1 << 14];
    std::memcpy(tensor, e.bytes.data(), e.bytes.size());
    e.how.address = tensor;
    e.how.nan_outside = true;
    std::vector<std::uint16_t> y(tile_bytes / 2);
    launch("load_box", load_box<2>, {.blocks = 1, .threads = 128, .shared_bytes = sizeof(Tile)},
           tensor_map("x", e.how), Coordinates{{88, 30}}, 0, static_cast<int>(box_bytes(e.how)),
           reinterpret_cast<unsigned char*>(y.data()));
    for (int i = 0; i < 64 * 24; ++i)
        CHECK(std::isnan(to_float(bf16{y[static_cast<std::size_t>(i)]})) == (i % 64 >= 12 || i / 64 >= 10));
}

TEST_CASE("a tensor map refuses what the hardware does not take") {
    alignas(128) static unsigned char tensor[4096];
    Tiled good;
    good.element = Element::bf16;
    good.address = tensor;
    good.rank = 2;
    good.extent[0] = 100, good.extent[1] = 10;
    good.stride[1] = 208;
    good.box[0] = 64, good.box[1] = 8;
    good.swizzle = Swizzle::bytes_128;
    CHECK(refusal_of_map(good).empty());
    const auto but = [&](auto change) {
        Tiled bad = good;
        change(bad);
        return refusal_of_map(bad);
    };
    CHECK(holds(but([](Tiled& t) { t.rank = 6; }), "1 to 5 dimensions, not 6"));
    CHECK(holds(but([](Tiled& t) { t.address = tensor + 8; }), "an address at a multiple of 16 bytes"));
    CHECK(holds(but([](Tiled& t) { t.extent[1] = 0; }), "extent 1 of a tensor map is 1 to 2^32, not 0"));
    CHECK(holds(but([](Tiled& t) { t.stride[1] = 200; }),
                "stride 1 of a tensor map is a multiple of 16 bytes, not 200"));
    CHECK(holds(but([](Tiled& t) { t.stride[1] = 1ULL << 40; }), "is below 2^40 bytes"));
    CHECK(holds(but([](Tiled& t) { t.box[1] = 257; }), "1 to 256 elements in dimension 1, not 257"));
    CHECK(holds(but([](Tiled& t) { t.box[0] = 65; }), "inner dimension is a multiple of 16 bytes, not 130"));
    CHECK(holds(but([](Tiled& t) { t.box[0] = 128; }),
                "with a swizzle of 128 bytes the box's inner dimension is as many"));
    CHECK(holds(but([](Tiled& t) { t.element = Element::uint8, t.box[0] = 128, t.nan_outside = true; }),
                "only tensors of bf16 or float32 can be filled with NaN"));
    CHECK(holds(but([](Tiled& t) { t.l2_promotion = 32; }), "L2 promotion is 0, 64, 128 or 256 bytes, not 32"));

    const TensorMap map = tensor_map("x", good);
    const Launch how{.blocks = 1, .threads = 1, .shared_bytes = sizeof(Tile)};
    CHECK(refusal_of(loads_too_far, how, map).find("still under way") != std::string::npos);
    good.box[1] = 17;
    CHECK(holds(refusal_of(loads_too_far, how, tensor_map("x", good)), "leads outside of the block's shared memory"));
    CHECK(holds(refusal_of(loads_to_an_odd_place, how, map), "its tile at a multiple of 128 bytes"));
    CHECK(
        holds(refusal_of(loads_with_three_coordinates, how, map), "gives 3 coordinates to the map of a tensor of 2"));
    CHECK(holds(refusal_of(loads_from_an_odd_column, how, map),
                "its innermost coordinate at a multiple of 16 bytes, not at byte 6"));
}
