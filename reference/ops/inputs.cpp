#include "reference/ops/inputs.h"

#include <array>
#include <cmath>
#include <memory>

#include "reference/attention/quantize.h"
#include "reference/files/json_file.h"
#include "reference/files/npy.h"

namespace dsa {
namespace {

using nlohmann::json;

constexpr std::uint64_t largest_exact_integer = std::uint64_t{1} << 53;

std::string described(const Axes& axes) {
    std::string text = "[";
    for (std::size_t i = 0; i < axes.size(); ++i)
        text += (i != 0 ? ", " : "") + (axes[i].name.empty() ? std::to_string(axes[i].exact) : axes[i].name);
    return text + "]";
}

Shape declared_shape(const json& entry, const std::string& name) {
    require(entry.contains("shape") && entry["shape"].is_array(), "case.json must give tensor ", name,
            " a \"shape\", a list of whole numbers");
    Shape shape;
    for (const json& extent : entry["shape"]) {
        require(extent.is_number_integer() && extent.get<Index>() >= 0 && extent.get<Index>() < (Index{1} << 40),
                "the shape of tensor ", name, " must be whole numbers from 0; it has ", extent.dump());
        shape.push_back(extent.get<Index>());
    }
    return shape;
}

Index blocks(Index n) { return (n + quantization_block - 1) / quantization_block; }

}  // namespace

OpInputs::OpInputs(const std::filesystem::path& folder) : folder_(folder), case_(read_json(folder / "case.json")) {
    const std::string where = (folder / "case.json").string();
    require(case_.is_object(), where, " must hold a JSON object");
    require(case_.contains("version") && case_["version"] == 1, where,
            " must say \"version\": 1, the format that this program reads");
    require(case_.contains("op") && case_["op"].is_string(), where, " must name its \"op\"");
    op_ = case_["op"];
    if (!case_.contains("parameters")) case_["parameters"] = json::object();
    if (!case_.contains("tensors")) case_["tensors"] = json::object();
    require(case_["parameters"].is_object() && case_["tensors"].is_object(), where,
            ": \"parameters\" and \"tensors\" must be objects");
    if (case_.contains("tier"))
        require(case_["tier"] == "exact" || case_["tier"] == "deployed", where,
                ": \"tier\" must be \"exact\" or \"deployed\"; it is ", case_["tier"].dump());
    if (case_.contains("seed")) {
        require(case_["seed"].is_number_unsigned() && case_["seed"].get<std::uint64_t>() < largest_exact_integer,
                where, ": \"seed\" must be a whole number from 0 to 2^53 - 1; it is ", case_["seed"].dump());
        seed_ = case_["seed"];
    }
    if (case_.contains("conventions")) conventions_ = conventions_from_json(case_["conventions"]);
}

const json& OpInputs::entry(const std::string& name) const {
    used_tensors_.insert(name);
    require(has(name), "the op ", op_, " needs a tensor named ", name, "; case.json has none");
    const json& found = case_["tensors"][name];
    require(found.is_object() && found.contains("dtype") && found["dtype"].is_string(), "case.json must give tensor ",
            name, " a \"dtype\"");
    return found;
}

DType OpInputs::dtype(const std::string& name) const { return dtype_from_name(entry(name)["dtype"]); }

const StoredTensor& OpInputs::stored(const std::string& name) const {
    const json& declared = entry(name);
    const auto known = stored_.find(name);
    if (known != stored_.end()) return known->second;
    const std::filesystem::path file = folder_ / (name + ".npy");
    StoredTensor tensor;
    if (std::filesystem::exists(file)) {
        tensor = read_npy(file, dtype(name));
        const Shape shape = declared_shape(declared, name);
        require(tensor.shape == shape, "the tensor ", name, " must have the shape that case.json says, ",
                to_string(shape), "; ", file.string(), " has ", to_string(tensor.shape));
    } else {
        require(declared.contains("fill"), "the tensor ", name, " needs the file ", file.string(),
                ", or a \"fill\" in case.json");
        tensor = Fill::from_json(declared, name, seed_).materialise();
    }
    return stored_.emplace(name, std::move(tensor)).first->second;
}

void OpInputs::match(const std::string& name, const Shape& shape, const Axes& axes) const {
    require(shape.size() == axes.size(), "the tensor ", name, " must have shape ", described(axes), "; it has ",
            to_string(shape));
    for (std::size_t i = 0; i < axes.size(); ++i) {
        if (axes[i].name.empty()) {
            require(shape[i] == axes[i].exact, "the tensor ", name, " must have shape ", described(axes), "; it has ",
                    to_string(shape));
            continue;
        }
        const auto [bound, is_new] = sizes_.emplace(axes[i].name, std::pair{shape[i], name});
        require(is_new || bound->second.first == shape[i], "the tensor ", name, " must have shape ", described(axes),
                " with ", axes[i].name, " = ", bound->second.first, ", as ", bound->second.second, " has it; it has ",
                to_string(shape));
    }
}

Index OpInputs::size(const std::string& axis) const { return sizes_.at(axis).first; }

const StoredTensor& OpInputs::floating(const std::string& name, const Axes& axes, Numbers numbers) const {
    const StoredTensor& tensor = stored(name);
    match(name, tensor.shape, axes);
    const bool is_floating = tensor.dtype == DType::float64 || tensor.dtype == DType::float32 ||
                             tensor.dtype == DType::bfloat16 || tensor.dtype == DType::float8_e4m3;
    require(is_floating, "the tensor ", name, " must be floating-point; it is ", name_of(tensor.dtype));
    if (numbers == Numbers::finite)
        each_number(tensor, [&name](Index element, double number) {
            if (!std::isfinite(number))
                refuse("the tensor ", name, " must hold finite numbers; element ", element, " (counted flat) is ",
                       number);
        });
    return tensor;
}

Array<float> OpInputs::vector(const std::string& name, const Axes& axes) const {
    const StoredTensor& tensor = floating(name, axes, Numbers::finite);
    Array<float> result(tensor.shape);
    for (Index i = 0; i < result.size(); ++i) result[i] = static_cast<float>(tensor.number(i));
    return result;
}

// Matrix number `number` of a stack, [rows, cols], whose first element is element `base` of the tensor.
Weight OpInputs::flat_weight(const std::string& name, Index base, Index rows, Index cols, Index number) const {
    const json& declared = entry(name);
    Weight values;
    if (!std::filesystem::exists(folder_ / (name + ".npy")) && declared.contains("fill")) {
        const Fill fill = Fill::from_json(declared, name, seed_);
        if (fill.lazy()) values = fill.as_weight(rows, cols, base);
    }
    if (values.empty()) {
        const auto* tensor = &stored(name);  // lives as long as these inputs
        values = Weight(name, rows, cols, [tensor, base, cols](Index row, Index first, Index count, float* out) {
            std::array<double, 16> numbers;
            for (Index done = 0; done < count; done += numbers.size()) {
                const Index some = std::min<Index>(numbers.size(), count - done);
                tensor->read(base + row * cols + first + done, some, numbers.data());
                for (Index i = 0; i < some; ++i)
                    out[done + i] = static_cast<float>(numbers[static_cast<std::size_t>(i)]);
            }
        });
    }
    if (dtype(name) != DType::float8_e4m3) return values;
    const std::string scale_name = name + "_scale";
    const Index first_scale = number * blocks(rows) * blocks(cols);
    const auto* scales = &stored(scale_name);
    return Weight(name, rows, cols,
                  [values, scales, first_scale, cols](Index row, Index first, Index count, float* out) {
                      values.read(row, first, count, out);
                      for (Index i = 0; i < count; ++i) {
                          const Index block =
                              row / quantization_block * blocks(cols) + (first + i) / quantization_block;
                          out[i] *= static_cast<float>(scales->number(first_scale + block));
                      }
                  })
        .marked_fp8();
}

Weight OpInputs::weight(const std::string& name, const Axes& axes) const {
    const Shape shape = declared_shape(entry(name), name);
    match(name, shape, axes);
    const Index cols = element_count(shape) / std::max<Index>(1, shape.front());
    if (dtype(name) == DType::float8_e4m3)
        floating(name + "_scale", {blocks(shape.front()), blocks(cols)}, Numbers::finite);
    return flat_weight(name, 0, shape.front(), cols, 0);
}

std::function<Weight(Index)> OpInputs::weight_stack(const std::string& name, const Axes& axes) const {
    const Shape shape = declared_shape(entry(name), name);
    match(name, shape, axes);
    const Index rows = shape[1];
    const Index cols = shape[2];
    if (dtype(name) == DType::float8_e4m3)
        floating(name + "_scale", {shape[0], blocks(rows), blocks(cols)}, Numbers::finite);
    return [this, name, rows, cols](Index e) { return flat_weight(name, e * rows * cols, rows, cols, e); };
}

Array<std::int32_t> OpInputs::integers(const std::string& name, const Axes& axes) const {
    const StoredTensor& tensor = stored(name);
    match(name, tensor.shape, axes);
    require(tensor.dtype == DType::int32 || tensor.dtype == DType::int64, "the tensor ", name,
            " must be int32; it is ", name_of(tensor.dtype));
    Array<std::int32_t> result(tensor.shape);
    for (Index i = 0; i < result.size(); ++i) {
        const double value = tensor.number(i);
        require(std::fabs(value) < 2147483648.0, "the tensor ", name, " must fit int32; element ", i, " is ", value);
        result[i] = static_cast<std::int32_t>(value);
    }
    return result;
}

Array<std::int32_t> OpInputs::integers(const std::string& name, const Axes& axes, Index low, Index high) const {
    Array<std::int32_t> result = integers(name, axes);
    for (Index i = 0; i < result.size(); ++i)
        require(result[i] >= low && result[i] <= high, "the tensor ", name, " must hold numbers from ", low, " to ",
                high, "; element ", i, " (counted flat) is ", result[i]);
    return result;
}

Array<std::uint8_t> OpInputs::bytes(const std::string& name, const Axes& axes) const {
    const StoredTensor& tensor = stored(name);
    match(name, tensor.shape, axes);
    require(tensor.dtype == DType::uint8, "the tensor ", name, " must be uint8; it is ", name_of(tensor.dtype));
    Array<std::uint8_t> result(tensor.shape);
    if (result.size() > 0) std::memcpy(result.data(), tensor.bytes.data(), tensor.bytes.size());
    return result;
}

const json& OpInputs::parameter(const std::string& name) const {
    used_parameters_.insert(name);
    require(has_parameter(name), "the op ", op_, " needs the parameter ", name, "; case.json has none");
    return case_["parameters"][name];
}

double OpInputs::number(const std::string& name, std::optional<double> otherwise) const {
    used_parameters_.insert(name);
    if (otherwise && !has_parameter(name)) return *otherwise;
    const json& value = parameter(name);
    require(value.is_number() && std::isfinite(value.get<double>()), "the parameter ", name,
            " must be a number; it is ", value.dump());
    return value;
}

Index OpInputs::whole(const std::string& name, std::optional<Index> otherwise) const {
    used_parameters_.insert(name);
    if (otherwise && !has_parameter(name)) return *otherwise;
    const json& value = parameter(name);
    require(value.is_number_integer() && value.get<Index>() > 0 && value.get<Index>() < (Index{1} << 31),
            "the parameter ", name, " must be a whole number above 0; it is ", value.dump());
    return value;
}

bool OpInputs::flag(const std::string& name, bool otherwise) const {
    used_parameters_.insert(name);
    if (!has_parameter(name)) return otherwise;
    const json& value = parameter(name);
    require(value.is_boolean(), "the parameter ", name, " must be true or false; it is ", value.dump());
    return value;
}

std::string OpInputs::choice(const std::string& name, const std::vector<std::string>& allowed,
                             const std::string& otherwise) const {
    used_parameters_.insert(name);
    if (!has_parameter(name)) return otherwise;
    std::string listed;
    for (const std::string& word : allowed) {
        if (parameter(name) == word) return word;
        listed += (listed.empty() ? "" : ", ") + word;
    }
    refuse("the parameter ", name, " must be one of ", listed, "; it is ", parameter(name).dump());
}

RopeParameters OpInputs::rope() const {
    RopeParameters r;
    used_parameters_.insert("rope");
    if (!has_parameter("rope")) return r;
    const json& given = parameter("rope");
    require(given.is_object(), "the parameter rope must be an object; it is ", given.dump());
    for (const auto& [key, value] : given.items()) {
        require(value.is_number() && value.get<double>() > 0.0, "rope's ", key, " must be a number above 0; it is ",
                value.dump());
        if (key == "theta")
            r.theta = value;
        else if (key == "factor")
            r.factor = value;
        else if (key == "beta_fast")
            r.beta_fast = value;
        else if (key == "beta_slow")
            r.beta_slow = value;
        else if (key == "original_context")
            r.original_context = value;
        else if (key == "max_context")
            r.max_context = value;
        else if (key == "mscale")
            r.mscale = value;
        else
            refuse("rope has no entry named \"", key,
                   "\"; it has theta, factor, beta_fast, beta_slow, original_context, max_context, mscale");
    }
    return r;
}

void OpInputs::refuse_unused() const {
    for (const auto& [name, value] : case_["tensors"].items())
        require(used_tensors_.contains(name), "the op ", op_, " takes no tensor named ", name,
                " here; remove it from case.json, or mend its name");
    for (const auto& [name, value] : case_["parameters"].items())
        require(used_parameters_.contains(name), "the op ", op_, " takes no parameter named ", name,
                " here; remove it from case.json, or mend its name");
}

}  // namespace dsa
