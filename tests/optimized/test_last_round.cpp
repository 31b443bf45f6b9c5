// Which calls level 9 of sparse_prefill cuts, told by the room that its parts need. Here a round is four items, and
// the rest of the last one is cut for at most eight blocks, in parts of two tiles of 48 slots and more.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "optimized/attention/adding.cuh"
#include "optimized/sparse_prefill/op.h"

using namespace dsa;

namespace {

SparsePrefill call_of(std::int64_t T, std::int64_t H, std::int64_t k) {
    SparsePrefill call{};
    call.T = T;
    call.H = H;
    call.S = 1000;
    call.k = k;
    call.d = 576;
    call.d_v = 512;
    call.result.scale = 0.1F;
    return call;
}

// splits: in which `cut` queries shall be cut.
bool needs(std::int64_t T, std::int64_t H, std::int64_t k, int splits, std::int64_t cut) {
    Arena arena;
    Parts(splits, cut * H, arena);
    return sparse_prefill_workspace_9(call_of(T, H, k)) == arena.bytes();
}

// What level 9 says when it refuses.
std::string refusal_of(const SparsePrefill& call) {
    try {
        sparse_prefill_level_9(call);
    } catch (const Refusal& refusal) {
        return refusal.what();
    }
    return {};
}

}  // namespace

TEST_CASE("what is left of the last round is cut, and nothing else") {
    CHECK(needs(5, 64, 170, 2, 1));   // four tiles
    CHECK(needs(5, 64, 200, 3, 1));   // five: 2, 2, 1
    CHECK(needs(5, 20, 400, 5, 1));   // by level 8 whole
    CHECK(needs(3, 64, 400, 2, 3));   // three queries have eight blocks
    CHECK(needs(1, 130, 200, 2, 1));  // and three items
    CHECK(needs(3, 130, 200, 2, 1));  // nine items: the second round ends within the third query
    CHECK(needs(1, 64, 2048, 8, 1));  // as many as there are blocks
    CHECK(needs(4, 64, 170, 1, 0));   // no rest
    CHECK(needs(2, 128, 2048, 1, 0));
    CHECK(needs(1, 64, 96, 1, 0));  // two tiles
    CHECK(needs(0, 64, 2048, 1, 0));
    CHECK(needs(3, 0, 2048, 1, 0));
    CHECK(needs(3, 64, 0, 1, 0));
}

TEST_CASE("without room for the parts nothing is begun") {
    CHECK(refusal_of(call_of(5, 64, 170)).find("the workspace must have") == 0);
}

TEST_CASE("what neither level 6 nor level 8 takes is declined") {
    CHECK(sparse_prefill_level_9_declines(call_of(1, 20, 2048)).empty());
    CHECK(sparse_prefill_level_9_declines(call_of(1, 20, 4096)).empty());
    CHECK(!sparse_prefill_level_9_declines(call_of(1, 20, 4097)).empty());
    CHECK(!sparse_prefill_level_9_declines(call_of(1, 64, 4097)).empty());
}

TEST_CASE("a workspace that no tensor map takes is called by its name, before anything is started") {
    alignas(16) static unsigned char memory[1 << 20];
    std::vector<bf16> q(3 * 64 * 576), kv(9 * 576);
    std::vector<std::int32_t> indices(3 * 200, -1);
    std::vector<bf16> out(3 * 64 * 512, bf16{7});
    std::vector<float> lse(3 * 64);
    SparsePrefill call = call_of(3, 64, 200);
    call.S = 9;
    call.q = q.data();
    call.kv = kv.data();
    call.indices = indices.data();
    call.result.out = out.data();
    call.result.lse = lse.data();
    call.workspace = memory + 4;
    call.workspace_bytes = sizeof memory - 4;
    CHECK(refusal_of(call).find("the workspace: a tensor map needs an address at a multiple of 16 bytes") == 0);
    CHECK(out[0].bits == 7);
}
