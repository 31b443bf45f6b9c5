// The warp-specialised product under many schedules: tiles that come late, products that end late, blocks that wait for
// each other.
#include "conformance/product.cu"
#include "kernels.h"

namespace {

using namespace dsa;
using namespace dsa::conformance;
using namespace dsa::testing;

void check_product(const Bytes& bytes, int m, int n, int k) {
    Whole whole(7);
    std::vector<int> a(static_cast<std::size_t>(m * k)), b(static_cast<std::size_t>(n * k));
    for (int& x : a) x = whole() % 2;
    for (int& x : b) x = whole();
    const auto c = as<std::uint16_t>(bytes);
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
            int sum = 0;
            for (int l = 0; l < k; ++l)
                sum += a[static_cast<std::size_t>(i * k + l)] * b[static_cast<std::size_t>(j * k + l)];
            REQUIRE(std::abs(sum) <= 256);
            CAPTURE(i);
            CAPTURE(j);
            REQUIRE(c[static_cast<std::size_t>(i * n + j)] == bf16_of(sum));
        }
}

}  // namespace

TEST_CASE("a warp-specialised product is right under 50 schedules") {
    constexpr int m = 256, n = 72, k = 264;  // K's last tile is cut, and so are N's columns
    with_seeds(50, [] {
        check_product(product_of_whole_numbers<1>(m, n, k), m, n, k);
        check_product(product_of_whole_numbers<2>(m, n, k), m, n, k);
    });
}
