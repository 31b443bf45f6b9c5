#include "optimized/tool/fields.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>

#include "optimized/serving/dsa_serving.h"

// An op of the contract that no folder here implements has no function: its address is null.
#define DSA_OP_BEGIN(op)                                                        \
    extern "C" __attribute__((weak)) int dsa_##op(const dsa_##op##_args* args); \
    extern "C" __attribute__((weak)) int64_t dsa_##op##_workspace(const dsa_##op##_args* args);
#define DSA_INPUT(...)
#define DSA_UPDATED(...)
#define DSA_OUTPUT(...)
#define DSA_WHOLE(...)
#define DSA_REAL(...)
#define DSA_OP_END(op)
#include "optimized/serving/fields.inc"
#include "optimized/tool/fields.inc"
#undef DSA_OP_BEGIN
#undef DSA_INPUT
#undef DSA_UPDATED
#undef DSA_OUTPUT
#undef DSA_WHOLE
#undef DSA_REAL
#undef DSA_OP_END

namespace dsa {
namespace {

#define DSA_OP_BEGIN(op)                                                                                          \
    {                                                                                                             \
#op, sizeof(dsa_##op##_args), offsetof(dsa_##op##_args, case_json), offsetof(dsa_##op##_args, workspace), \
            offsetof(dsa_##op##_args, workspace_bytes), offsetof(dsa_##op##_args, stream), {
#define DSA_INPUT(op, name, axes, optional) \
    {FieldKind::input, #name, offsetof(dsa_##op##_args, name), axes, "", optional},
#define DSA_UPDATED(op, name, axes) {FieldKind::updated, #name, offsetof(dsa_##op##_args, name), axes, "uint8"},
#define DSA_OUTPUT(op, field, name, axes, dtype) \
    {FieldKind::output, #name, offsetof(dsa_##op##_args, field), axes, dtype},
#define DSA_WHOLE(op, name) {FieldKind::whole, #name, offsetof(dsa_##op##_args, name), "", ""},
#define DSA_REAL(op, name) {FieldKind::real, #name, offsetof(dsa_##op##_args, name), "", ""},
#define DSA_OP_END(op)                                                                                           \
    }                                                                                                            \
    , dsa_##op != nullptr, [](const void* args) { return dsa_##op(static_cast<const dsa_##op##_args*>(args)); }, \
        [](const void* args) { return dsa_##op##_workspace(static_cast<const dsa_##op##_args*>(args)); }         \
    }                                                                                                            \
    ,

// Sums of products of names and whole numbers, with ceil64(x) = ceil(x / 64) and max1(x) = max(1, x).
class Expression {
   public:
    Expression(const std::string& text, const std::map<std::string, std::int64_t>& sizes)
        : text_(text), sizes_(sizes) {}

    std::int64_t value() {
        const std::int64_t result = sum();
        if (at_ != text_.size()) fail();
        return result;
    }

   private:
    std::int64_t sum() {
        std::int64_t total = product();
        while (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) {
            const bool minus = text_[at_++] == '-';
            total += minus ? -product() : product();
        }
        return total;
    }
    std::int64_t product() {
        std::int64_t total = factor();
        while (at_ < text_.size() && (text_[at_] == '*' || text_[at_] == '/')) {
            const bool divides = text_[at_++] == '/';
            const std::int64_t f = factor();
            if (divides && f == 0) fail();
            total = divides ? total / f : total * f;
        }
        return total;
    }
    std::int64_t factor() {
        const std::size_t begin = at_;
        while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '_'))
            ++at_;
        const std::string word = text_.substr(begin, at_ - begin);
        if (word.empty()) fail();
        if (at_ < text_.size() && text_[at_] == '(') {
            ++at_;
            const std::int64_t inner = sum();
            if (at_ >= text_.size() || text_[at_++] != ')') fail();
            if (word == "ceil64") return (inner + 63) / 64;
            if (word == "max1") return std::max<std::int64_t>(1, inner);
            fail();
        }
        if (std::isdigit(static_cast<unsigned char>(word[0])) != 0) return std::stoll(word);
        const auto found = sizes_.find(word);
        if (found == sizes_.end())
            throw std::invalid_argument("the size " + word + " of the axis " + text_ + " is not known");
        return found->second;
    }
    [[noreturn]] void fail() const { throw std::invalid_argument("the axis " + text_ + " is no expression"); }

    const std::string& text_;
    const std::map<std::string, std::int64_t>& sizes_;
    std::size_t at_ = 0;
};

}  // namespace

const std::vector<OpFields>& all_fields() {
    static const std::vector<OpFields> all{
#include "optimized/tool/fields.inc"
    };
    return all;
}

const std::vector<OpFields>& serving_fields() {
    static const std::vector<OpFields> all{
#include "optimized/serving/fields.inc"
    };
    return all;
}

const OpFields* fields_of(const std::string& op) {
    for (const OpFields& one : all_fields())
        if (one.name == op && one.is_here) return &one;
    return nullptr;
}

std::vector<std::string> op_names() {
    std::vector<std::string> names;
    for (const OpFields& one : all_fields())
        if (one.is_here) names.push_back(one.name);
    return names;
}

std::vector<std::int64_t> output_shape(const Field& output, const std::map<std::string, std::int64_t>& sizes) {
    std::vector<std::int64_t> shape;
    std::size_t begin = 0;
    while (begin <= output.axes.size()) {
        const std::size_t end = std::min(output.axes.find(',', begin), output.axes.size());
        const std::string axis = output.axes.substr(begin, end - begin);
        shape.push_back(Expression(axis, sizes).value());
        begin = end + 1;
    }
    return shape;
}

}  // namespace dsa
