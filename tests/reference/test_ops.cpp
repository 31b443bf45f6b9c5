// Every op on the goldens kept in the repository: the tiers agree where they must, and the answers are those.
#include <doctest/doctest.h>

#include <filesystem>

#include "reference/files/npy.h"
#include "reference/ops/golden.h"

using namespace dsa;
namespace fs = std::filesystem;

namespace {

std::vector<fs::path> kept_goldens() {
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(SOURCE_DIR) / "golden/tensors"))
        if (entry.path().filename() == "golden.json") found.push_back(entry.path().parent_path());
    return found;
}

Record record_of(Op::Run run, const OpInputs& in) {
    Record record;
    run(in, Trace([&record](const Shown& shown) { record.push_back(shown); }));
    return record;
}

}  // namespace

TEST_CASE("there is an op for every name, and every op can be found") {
    CHECK(all_ops().size() == 31);
    for (const Op& op : all_ops()) {
        CHECK(find_op(op.name) == &op);
        CHECK(!op.outputs.empty());
    }
    CHECK(find_op("top_j") == nullptr);
}

TEST_CASE("the bounds tier has the exact tier's values, bit for bit; the deployed answers are the kept ones") {
    const auto goldens = kept_goldens();
    CHECK(goldens.size() >= 15);
    for (const fs::path& golden : goldens) {
        INFO(golden.string());
        const OpInputs in(golden / "inputs");
        const Op* op = find_op(in.op());
        REQUIRE(op != nullptr);
        const Record exact = record_of(op->exact, in);
        const Record bounds = record_of(op->bounds, in);
        REQUIRE(bounds.size() == exact.size());
        for (std::size_t i = 0; i < exact.size(); ++i) {
            CHECK(bounds[i].name == exact[i].name);
            CHECK_MESSAGE(bounds[i].tensor.bytes == exact[i].tensor.bytes, exact[i].name);
        }
        for (const Shown& shown : record_of(op->deployed, in)) {
            const StoredTensor kept = read_npy(golden / "deployed" / (shown.name + ".npy"), shown.tensor.dtype);
            CHECK_MESSAGE(kept.bytes == shown.tensor.bytes, shown.name);
        }
        for (const std::string& output : op->outputs)
            CHECK_MESSAGE(fs::exists(golden / "deployed" / (output + ".npy")), output);
    }
}

TEST_CASE("a bound that is too narrow is counted, NaN is not taken for agreement, infinities agree") {
    const Shown exact{.name = "y",
                      .tensor = store(Array<double>({4}, {1.0, 2.0, -INFINITY, 4.0}), DType::float64),
                      .error = Array<double>({4}, {0.1, 0.1, 0.0, 0.1})};
    const auto against = [&](std::vector<float> got) {
        return compare({.name = "y", .tensor = store(Array<float>({4}, std::move(got)), DType::float32)}, exact, {});
    };
    CHECK(against({1.0F, 2.0F, -INFINITY, 4.0F}).beyond == 0);
    CHECK(against({1.05F, 2.0F, -INFINITY, 4.0F}).beyond == 0);
    CHECK(against({1.2F, 2.0F, -INFINITY, 4.0F}).beyond == 1);
    CHECK(against({1.2F, 2.0F, -INFINITY, 4.0F}).worst_ratio > 1.9);
    CHECK(against({1.0F, NAN, -INFINITY, 4.0F}).not_numbers == 1);
    CHECK(against({1.0F, 2.0F, INFINITY, 4.0F}).beyond == 1);
    CHECK(against({1.0F, 2.0F, -INFINITY, INFINITY}).beyond == 1);
    CHECK(against({1.0F, 2.0F, -3e38F, 4.0F}).beyond == 1);
}

TEST_CASE("what is followed is what the next stage works on, and what is shown stays the stage's own") {
    auto recorded = std::make_shared<Trace::Followed>();
    recorded->emplace("layer.a", store(Array<double>({2}, {5.0, 6.0}), DType::float64));
    recorded->emplace("layer.choice", store(Array<std::int32_t>({2}, {7, 8})));
    Record shown;
    const Trace trace = Trace([&](const Shown& s) { shown.push_back(s); }, recorded).inside("layer");
    const Tensor<Exact> own({2}, std::vector<double>{1.0, 2.0});
    CHECK(trace.pass("a", own, DType::bfloat16)[1] == 6.0);
    CHECK(trace.pass("b", own, DType::bfloat16)[1] == 2.0);
    CHECK(trace.pass("choice", Array<std::int32_t>({2}, {1, 2}))[0] == 7);
    CHECK(shown[0].name == "layer.a");
    CHECK(shown[0].tensor.number(1) == 2.0);
    CHECK_THROWS_AS(trace.pass("a", Tensor<Exact>({3}), DType::bfloat16), Refusal);
}
