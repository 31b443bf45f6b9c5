#include "optimized/python/native/call.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "optimized/support/refusal.h"

namespace dsa {
namespace {

struct Format {
    const char* name;
    std::int64_t bytes;
};
// By the number of dsa_dtype.
constexpr std::array<Format, 8> formats{{{"float64", 8},
                                         {"float32", 4},
                                         {"bfloat16", 2},
                                         {"float8_e4m3", 1},
                                         {"uint8", 1},
                                         {"int32", 4},
                                         {"int64", 8},
                                         {"bool", 1}}};

}  // namespace

const char* dtype_name(dsa_dtype dtype) { return formats.at(dtype).name; }
std::int64_t bytes_of(dsa_dtype dtype) { return formats.at(dtype).bytes; }

dsa_dtype dtype_named(const std::string& name) {
    const auto* found = std::find_if(formats.begin(), formats.end(), [&](const Format& f) { return name == f.name; });
    require(found != formats.end(), "dsa.h has no dtype named ", name);
    return static_cast<dsa_dtype>(found - formats.begin());
}

dsa_tensor described(void* data, dsa_dtype dtype, const std::vector<std::int64_t>& shape) {
    dsa_tensor tensor{data, dtype, static_cast<std::int32_t>(shape.size()), {}, {}};
    require(shape.size() <= std::size(tensor.shape), "a tensor of dsa.h has at most ", std::size(tensor.shape),
            " axes; this one has ", shape.size());
    std::int64_t stride = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
        tensor.shape[i] = shape[i];
        tensor.stride[i] = stride;
        stride *= shape[i];
    }
    return tensor;
}

Call::Call(const Library& library, const std::string& op)
    : library_(library), op_(library.op(op)), struct_(op_.fields->bytes) {}

std::vector<const Field*> Call::of(FieldKind kind) const {
    std::vector<const Field*> found;
    for (const Field& field : op_.fields->fields)
        if (field.kind == kind) found.push_back(&field);
    return found;
}

void Call::put(const Field& field, const dsa_tensor& tensor) {
    at<dsa_tensor>(field.offset) = tensor;
    if (field.kind != FieldKind::input) return;
    std::size_t begin = 0;
    for (int i = 0; i < tensor.rank && begin <= field.axes.size(); ++i) {
        const std::size_t end = std::min(field.axes.find(',', begin), field.axes.size());
        sizes_.emplace(field.axes.substr(begin, end - begin), tensor.shape[i]);
        begin = end + 1;
    }
}

void Call::bind() {
    for (const auto& [name, value] : whole_) sizes_[name] = value;
    // The contract's defaults (golden/touchstone/contract.py).
    for (const auto& [name, value] :
         {std::pair<const char*, std::int64_t>{"block", 128}, {"R_kv", 512}, {"active", 8}})
        sizes_.emplace(name, value);
    if (const auto d = sizes_.find("d"); d != sizes_.end())
        sizes_.emplace("d_v", std::min<std::int64_t>(512, d->second));
    const auto k = sizes_.find(sizes_.contains("k") ? "k" : "S");
    sizes_.emplace("k_or_S", k == sizes_.end() ? 0 : k->second);
    for (const Field& field : op_.fields->fields) {
        if (field.kind == FieldKind::whole && sizes_.contains(field.name))
            at<std::int64_t>(field.offset) = sizes_[field.name];
        if (field.kind == FieldKind::real && real_.contains(field.name)) at<double>(field.offset) = real_[field.name];
    }
}

std::vector<std::int64_t> Call::shape_of(const Field& output) const {
    try {
        return output_shape(output, sizes_);
    } catch (const std::invalid_argument& error) {
        refuse(Status::bad_argument, "the shape of ", output.name, " of ", op_.fields->name,
               " does not follow from what was given: ", error.what());
    }
}

void Call::refuse_with(std::int64_t status) const {
    const auto known = status >= 1 && status <= static_cast<int>(Status::launch_failed);
    const auto as = status == DSA_NOT_IMPLEMENTED ? Status::not_implemented
                    : known                       ? static_cast<Status>(status)
                                                  : Status::launch_failed;
    refuse(as, op_.fields->name, ": ", library_.last_error());
}

std::int64_t Call::workspace_bytes() const {
    if (op_.workspace == nullptr) return 0;
    const std::int64_t bytes = op_.workspace(struct_.data());
    if (bytes < 0) refuse_with(-bytes);
    return bytes;
}

void Call::workspace(void* data, std::int64_t bytes) {
    at<void*>(op_.fields->workspace) = data;
    at<std::int64_t>(op_.fields->workspace_bytes) = bytes;
}

void Call::run() const {
    if (const int status = op_.run(struct_.data()); status != 0) refuse_with(status);
}

}  // namespace dsa
