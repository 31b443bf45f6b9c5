// Do the gradients of dense attention come out the same when the score matrices do not fit at once? All numbers are
// small whole ones and every probability is 1 (queries and keys share no column, lse is 0), so that no order of a sum
// matters.
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "optimized/dense_mha_backward/op.h"
#include "optimized/dense_mqa_backward/op.h"

using namespace dsa;

namespace {

constexpr std::int64_t T = 5, S = 40, H = 3, d = 32, d_v = 16;

bf16 number(int whole) {
    const float x = static_cast<float>(whole);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    return {static_cast<std::uint16_t>(bits >> 16)};
}

// [rows, columns] of numbers from -2 to 2, 0 outside the columns [first, last).
std::vector<bf16> filled(std::int64_t rows, std::int64_t columns, std::int64_t first, std::int64_t last) {
    std::vector<bf16> all;
    for (std::int64_t i = 0; i < rows * columns; ++i) {
        const bool is_here = i % columns >= first && i % columns < last;
        all.push_back(number(is_here ? static_cast<int>(i * i % 5) - 2 : 0));
    }
    return all;
}

struct Inputs {
    std::vector<bf16> q = filled(T * H, d, d_v, d), out = filled(T * H, d_v, 0, 3), dout = filled(T * H, d_v, 0, d_v);
    std::vector<float> lse = std::vector<float>(T * H, 0.0F);
};

template <class Call>
Call call_of(const Inputs& in, std::vector<unsigned char>& workspace, std::int64_t bytes) {
    Call call{};
    call.q = in.q.data();
    call.out = in.out.data();
    call.lse = in.lse.data();
    call.dout = in.dout.data();
    call.T = T;
    call.S = S;
    call.H = H;
    call.d = d;
    call.d_v = d_v;
    call.causal = true;
    call.scale = 1.0F;
    call.workspace = workspace.data();
    call.workspace_bytes = static_cast<std::int64_t>(workspace.size());
    call.most_bytes = bytes;
    return call;
}

std::vector<int> bits_of(const std::vector<bf16>& numbers) {
    std::vector<int> bits;
    for (const bf16 x : numbers) bits.push_back(x.bits);
    return bits;
}

}  // namespace

TEST_CASE("MQA: a few queries at a time give what all of them give at once") {
    const Inputs in;
    const std::vector<bf16> kv = filled(S, d, 0, d_v);
    std::vector<unsigned char> workspace(1 << 20);
    for (const int level : {1, 2}) {
        std::vector<std::vector<float>> dkv;
        std::vector<std::vector<int>> dq;
        // All queries; two at a time and one left over; one at a time, since less than one is not possible.
        for (const std::int64_t bytes : {std::int64_t{1} << 30, 2 * 14 * H * S, std::int64_t{1}}) {
            auto call = call_of<DenseMqaBackward>(in, workspace, bytes);
            std::vector<bf16> dq_here(T * H * d);
            dkv.emplace_back(S * d, -1.0F);
            call.kv = kv.data();
            call.dq = dq_here.data();
            call.dkv = dkv.back().data();
            REQUIRE(dense_mqa_backward_workspace(call) <= call.workspace_bytes);
            dense_mqa_backward_chain(call, level);
            dq.push_back(bits_of(dq_here));
        }
        CHECK(dkv[1] == dkv[0]);
        CHECK(dkv[2] == dkv[0]);
        CHECK(dq[1] == dq[0]);
        CHECK(dq[2] == dq[0]);
        // The last position is seen by the last query alone: p = 1, and its value's gradient is dout's sum over
        // heads.
        float sum = 0.0F;
        for (std::int64_t h = 0; h < H; ++h) {
            const auto i = static_cast<int>(((T - 1) * H + h) * d_v);
            sum += static_cast<float>(i * i % 5 - 2);
        }
        CHECK(dkv[0][(S - 1) * d] == sum);
    }
}

TEST_CASE("MHA: a head at a time gives what all of them give at once") {
    const Inputs in;
    const std::vector<bf16> k = filled(S * H, d, 0, d_v);
    const std::vector<bf16> v = filled(S * H, d_v, 0, d_v);
    std::vector<unsigned char> workspace(1 << 20);
    for (const int level : {1, 2}) {
        std::vector<std::vector<int>> found;
        for (const std::int64_t bytes : {std::int64_t{1} << 30, 2 * 14 * T * S, std::int64_t{1}}) {
            auto call = call_of<DenseMhaBackward>(in, workspace, bytes);
            std::vector<bf16> dq(T * H * d), dk(S * H * d), dv(S * H * d_v);
            call.k = k.data();
            call.v = v.data();
            call.dq = dq.data();
            call.dk = dk.data();
            call.dv = dv.data();
            REQUIRE(dense_mha_backward_workspace(call) <= call.workspace_bytes);
            dense_mha_backward_chain(call, level);
            dq.insert(dq.end(), dk.begin(), dk.end());
            dq.insert(dq.end(), dv.begin(), dv.end());
            found.push_back(bits_of(dq));
        }
        CHECK(found[1] == found[0]);
        CHECK(found[2] == found[0]);
    }
}
