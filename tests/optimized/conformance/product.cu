// A warp-specialised matrix product, alone and in a cluster of two, whose edges lie inside of tiles.
#include "product.cuh"

namespace dsa::conformance {

static const Registered alone("product", [] { return product_of_whole_numbers<1>(200, 136, 200); });
static const Registered in_a_cluster("product_in_a_cluster", [] { return product_of_whole_numbers<2>(200, 136, 200); });

}  // namespace dsa::conformance
