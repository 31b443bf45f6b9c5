// Tensor copies of each rank, swizzle and element, inside and beyond the tensor's edges.
#include "tma.cuh"

namespace dsa::conformance {
namespace {

// A tensor of small extents, its rows padded by 16 bytes, in which each byte tells where it is.
struct Example {
    Tiled how;
    std::vector<unsigned char> bytes;

    Example(Element element, int rank, const std::vector<int>& extent, const std::vector<int>& box, Swizzle swizzle) {
        how.element = element;
        how.rank = rank;
        how.swizzle = swizzle;
        std::uint64_t size = static_cast<std::uint64_t>(bytes_of(element));
        for (int d = 0; d < rank; ++d) {
            how.extent[d] = static_cast<std::uint64_t>(extent[static_cast<std::size_t>(d)]);
            how.box[d] = static_cast<std::uint32_t>(box[static_cast<std::size_t>(d)]);
            how.stride[d] = size;
            size = (size * how.extent[d] + 15) / 16 * 16 + (d == 0 ? 16 : 0);
        }
        bytes.resize(size);
        for (std::size_t i = 0; i < bytes.size(); ++i)
            bytes[i] = static_cast<unsigned char>((i * 7 + i / 256 * 13) % 120);
    }
};

template <int rank>
void add_load(const std::string& name, Element element, const std::vector<int>& extent, const std::vector<int>& box,
              Swizzle swizzle, Coordinates at, int offset = 0, bool nan_outside = false) {
    experiments().push_back(
        {"tma_load_" + name, [=] {
             Example e(element, rank, extent, box, swizzle);
             const OnDevice<unsigned char> tensor(e.bytes), y(std::size_t{tile_bytes});
             e.how.address = tensor.data();
             e.how.nan_outside = nan_outside;
             launch("load_box", load_box<rank>, {.blocks = 1, .threads = 128, .shared_bytes = sizeof(Tile)},
                    tensor_map("tensor", e.how), at, offset, static_cast<int>(box_bytes(e.how)), y.data());
             return y.bytes();
         }});
}

template <int rank, bool adds = false>
void add_store(const std::string& name, Element element, const std::vector<int>& extent, const std::vector<int>& box,
               Swizzle swizzle, Coordinates at) {
    experiments().push_back({"tma_store_" + name, [=] {
                                 Example e(element, rank, extent, box, swizzle);
                                 if (adds) std::fill(e.bytes.begin(), e.bytes.end(), static_cast<unsigned char>(0));
                                 const OnDevice<unsigned char> tensor(e.bytes);
                                 e.how.address = tensor.data();
                                 launch("store_box", store_box<rank, adds>,
                                        {.blocks = 1, .threads = 128, .shared_bytes = sizeof(Tile)},
                                        tensor_map("tensor", e.how), at);
                                 return tensor.bytes();
                             }});
}

[[maybe_unused]] const bool registered = [] {
    constexpr Swizzle swizzles[] = {Swizzle::none, Swizzle::bytes_32, Swizzle::bytes_64, Swizzle::bytes_128};
    for (const Swizzle s : swizzles) {
        const std::string span = std::to_string(span_of(s));
        const int columns = s == Swizzle::none ? 64 : span_of(s) / 2;
        const std::vector<int> extent{100, 40}, box{columns, 24};
        add_load<2>("bf16_" + span, Element::bf16, extent, box, s, {{8, 3}});
        add_load<2>("bf16_" + span + "_edge", Element::bf16, extent, box, s, {{88, 30}});
        add_load<2>("bf16_" + span + "_before", Element::bf16, extent, box, s, {{-8, -5}});
        add_store<2>("bf16_" + span, Element::bf16, extent, box, s, {{8, 3}});
        add_store<2>("bf16_" + span + "_edge", Element::bf16, extent, box, s, {{88, 30}});
    }
    add_load<2>("bf16_128_second_place", Element::bf16, {100, 40}, {64, 5}, Swizzle::bytes_128, {{0, 0}}, 3 * 128);
    add_load<2>("bf16_nan_outside", Element::bf16, {100, 40}, {64, 24}, Swizzle::none, {{88, 30}}, 0, true);
    add_load<2>("float32_nan_outside", Element::float32, {20, 7}, {8, 4}, Swizzle::none, {{16, 5}}, 0, true);
    add_load<1>("uint8_rank_1", Element::uint8, {1000}, {128}, Swizzle::none, {{944}});
    add_load<3>("float32_rank_3", Element::float32, {20, 7, 5}, {8, 4, 3}, Swizzle::bytes_32, {{16, 5, 3}});
    add_load<4>("uint8_rank_4", Element::uint8, {40, 5, 4, 3}, {32, 3, 2, 2}, Swizzle::bytes_32, {{16, 3, -1, 2}});
    add_load<5>("int32_rank_5", Element::int32, {9, 4, 3, 3, 2}, {4, 2, 2, 2, 2}, Swizzle::none, {{8, 3, 1, 2, 0}});
    add_store<3, true>("float32_added", Element::float32, {20, 7, 5}, {8, 4, 3}, Swizzle::bytes_32, {{16, 5, 3}});
    add_store<5>("int32_rank_5", Element::int32, {9, 4, 3, 3, 2}, {4, 2, 2, 2, 2}, Swizzle::none, {{8, 3, 1, 2, 0}});
    experiments().push_back(
        {"tma_gather_rows", [] {
             Example e(Element::bf16, 2, {64, 50}, {64, 1}, Swizzle::bytes_128);
             const OnDevice<unsigned char> tensor(e.bytes), y(std::size_t{32} * 128);
             e.how.address = tensor.data();
             std::vector<int> rows;
             for (int r = 0; r < 32; ++r) rows.push_back(r * 17 % 60);  // some beyond the end
             const OnDevice<int> on_device(rows);
             launch("gather_rows", gather_rows, {.blocks = 1, .threads = 128, .shared_bytes = sizeof(Tile)},
                    tensor_map("tensor", e.how), static_cast<const int*>(on_device.data()), 32, 128, y.data());
             return y.bytes();
         }});
    experiments().push_back({"tma_multicast", [] {
                                 Example e(Element::bf16, 2, {64, 50}, {64, 16}, Swizzle::bytes_128);
                                 const OnDevice<unsigned char> tensor(e.bytes), y(std::size_t{2} * 2048);
                                 e.how.address = tensor.data();
                                 launch("load_for_both", load_for_both,
                                        {.blocks = 2, .threads = 128, .shared_bytes = sizeof(Tile), .cluster = 2},
                                        tensor_map("tensor", e.how), 2048, y.data());
                                 return y.bytes();
                             }});
    return true;
}();

}  // namespace
}  // namespace dsa::conformance
