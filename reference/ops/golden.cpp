#include "reference/ops/golden.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "reference/files/json_file.h"
#include "reference/files/npy.h"

namespace dsa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Larger inputs stay generated: anybody can make them again from their fill.
constexpr Index largest_written_input = Index{1} << 22;

Record record_of(Op::Run run, const OpInputs& in, std::shared_ptr<const Trace::Followed> followed = nullptr) {
    Record record;
    run(in, Trace([&record](const Shown& shown) { record.push_back(shown); }, std::move(followed)));
    return record;
}

// What another tier is to follow of a record: its choices, or all of it.
std::shared_ptr<const Trace::Followed> to_follow(const Record& record, bool all) {
    auto followed = std::make_shared<Trace::Followed>();
    for (const Shown& shown : record)
        if (all || shown.tensor.dtype == DType::int32) followed->emplace(shown.name, shown.tensor);
    return followed;
}

// The stages of `deployed` that `folder` has as .npy files, in the dtypes of `deployed`.
std::shared_ptr<const Trace::Followed> stages_in(const fs::path& folder, const Record& deployed) {
    auto followed = std::make_shared<Trace::Followed>();
    for (const Shown& shown : deployed) {
        const fs::path file = folder / (shown.name + ".npy");
        if (fs::exists(file)) followed->emplace(shown.name, read_npy(file, shown.tensor.dtype));
    }
    require(!followed->empty(), "the folder to follow, ", folder.string(),
            ", has no stage of this op as a .npy file");
    return followed;
}

StoredTensor rounded_up(const Array<double>& bounds) {
    Array<float> up(bounds.shape());
    for (Index i = 0; i < up.size(); ++i) {
        up[i] = static_cast<float>(bounds[i]);
        if (static_cast<double>(up[i]) < bounds[i])
            up[i] = std::nextafter(up[i], std::numeric_limits<float>::infinity());
    }
    return store(up, DType::float32);
}

json number_or_inf(double x) { return std::isfinite(x) ? json(x) : json("inf"); }

json summary(const Shown& deployed, const Shown* exact, const Shown* end_to_end, const Record& all_deployed) {
    json entry{{"dtype", name_of(deployed.tensor.dtype)}, {"shape", deployed.tensor.shape}};
    if (!deployed.scale.empty()) entry["scale"] = deployed.scale;
    if (exact == nullptr || !exact->error) return entry;
    const Comparison c = compare(deployed, *exact, all_deployed);
    entry["worst_ratio"] = number_or_inf(c.worst_ratio);
    entry["beyond"] = c.beyond;
    entry["not_numbers"] = c.not_numbers;
    entry["unbounded"] = c.unbounded;
    entry["value_rms"] = number_or_inf(c.value_rms);
    entry["error_rms"] = number_or_inf(c.error_rms);
    entry["bound_rms"] = number_or_inf(c.bound_rms);
    if (end_to_end != nullptr)
        entry["end_to_end_rms"] = number_or_inf(compare(deployed, *end_to_end, all_deployed).error_rms);
    return entry;
}

// Every input of the case that is small enough, as files beside a case.json that declares them all.
void write_inputs(const OpInputs& in, const fs::path& folder) {
    fs::create_directories(folder);
    json declared = in.description();
    declared["tier"] = "deployed";
    for (auto& [name, entry] : declared["tensors"].items())
        if (element_count(entry["shape"].get<Shape>()) <= largest_written_input)
            write_npy(folder / (name + ".npy"), in.stored(name));
    write_json(folder / "case.json", declared);
}

}  // namespace

const Shown* find(const Record& record, const std::string& name) {
    for (const Shown& shown : record)
        if (shown.name == name) return &shown;
    return nullptr;
}

Comparison compare(const Shown& deployed, const Shown& exact, const Record& all_deployed) {
    Comparison result;
    const bool divides = deployed.scale.starts_with("1/");
    const Shown* scale =
        deployed.scale.empty() ? nullptr : find(all_deployed, divides ? deployed.scale.substr(2) : deployed.scale);
    const Index block =
        scale == nullptr || scale->tensor.size() == 0 ? 1 : deployed.tensor.size() / scale->tensor.size();
    Index finite = 0;
    for (Index i = 0; i < deployed.tensor.size(); ++i) {
        double got = deployed.tensor.number(i);
        if (scale != nullptr) {
            const double unit = scale->tensor.number(i / block);
            got = divides ? got / unit : got * unit;
        }
        const double want = exact.tensor.number(i);
        if (std::isnan(got)) {
            ++result.not_numbers;
            continue;
        }
        if (std::isinf(got) && got == want) continue;
        const double error = std::fabs(got - want);
        ++finite;
        result.value_rms += want * want;
        result.error_rms += error * error;
        if (!exact.error) continue;
        const double bound = (*exact.error)[i];
        if (std::isinf(bound)) {
            ++result.unbounded;
            continue;
        }
        result.bound_rms += bound * bound;
        if (!(error <= bound)) ++result.beyond;
        const double ratio = error == 0.0  ? 0.0
                             : bound > 0.0 ? error / bound
                                           : std::numeric_limits<double>::infinity();
        if (!(ratio <= result.worst_ratio)) result.worst_ratio = ratio;
    }
    for (double* rms : {&result.value_rms, &result.error_rms, &result.bound_rms})
        *rms = finite == 0 ? 0.0 : std::sqrt(*rms / static_cast<double>(finite));
    return result;
}

std::vector<std::string> write_golden(const fs::path& in_dir, const fs::path& out_dir, const fs::path& follow_dir) {
    const OpInputs in(in_dir);
    const Op* op = find_op(in.op());
    require(op != nullptr, "there is no op named \"", in.op(), "\"; `dsa-reference ops` lists them");
    Record deployed = record_of(op->deployed, in);
    in.refuse_unused();
    auto followed = to_follow(deployed, op->staged);
    if (!follow_dir.empty()) {
        // Each stage as it should be, given the earlier ones that somebody else's implementation shows.
        const auto shown = stages_in(follow_dir, deployed);
        deployed = record_of(op->deployed, in, shown);
        auto all = std::make_shared<Trace::Followed>(*shown);
        const auto choices = to_follow(deployed, false);
        for (const auto& [name, tensor] : *choices) all->emplace(name, tensor);
        followed = all;
    }
    const Record exact = record_of(op->bounds, in, followed);
    const Record end_to_end = op->staged ? record_of(op->exact, in, to_follow(deployed, false)) : Record{};

    const fs::path unfinished = out_dir.string() + ".unfinished";
    fs::remove_all(unfinished);
    write_inputs(in, unfinished / "inputs");
    json description{{"version", 1},
                     {"case", in.description()},
                     {"conventions", to_json(in.conventions())},
                     {"outputs", op->outputs},
                     {"exact_given", !follow_dir.empty() ? "followed stages"
                                     : op->staged        ? "deployed stages"
                                                         : "deployed choices"},
                     {"tensors", json::object()}};
    std::vector<std::string> broken;
    for (const char* folder : {"exact", "exact_bound", "deployed", "deployed_bound"})
        fs::create_directories(unfinished / folder);
    for (const Shown& shown : deployed) {
        const std::string file = shown.name + ".npy";
        const Shown* exact_shown = find(exact, shown.name);
        write_npy(unfinished / "deployed" / file, shown.tensor);
        if (exact_shown != nullptr) {
            write_npy(unfinished / "exact" / file, exact_shown->tensor);
            if (exact_shown->error) write_npy(unfinished / "exact_bound" / file, rounded_up(*exact_shown->error));
            if (exact_shown->deployed_error)
                write_npy(unfinished / "deployed_bound" / file, rounded_up(*exact_shown->deployed_error));
        }
        const json entry = summary(shown, exact_shown, find(end_to_end, shown.name), deployed);
        if (entry.value("beyond", Index{0}) > 0) broken.push_back(shown.name);
        description["tensors"][shown.name] = entry;
    }
    write_json(unfinished / "golden.json", description);
    fs::remove_all(out_dir);
    fs::rename(unfinished, out_dir);
    return broken;
}

void write_outputs(const Op& op, const OpInputs& in, const std::string& tier, const fs::path& out_dir, bool stages) {
    const Record record = record_of(tier == "exact" ? op.exact : op.deployed, in);
    in.refuse_unused();
    fs::create_directories(out_dir);
    for (const Shown& shown : record)
        if (stages || std::find(op.outputs.begin(), op.outputs.end(), shown.name) != op.outputs.end())
            write_npy(out_dir / (shown.name + ".npy"), shown.tensor);
}

}  // namespace dsa
