// One call's struct, filled by the contract's names: inputs bind the axes, the axes give the outputs' shapes.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "optimized/python/native/library.h"

namespace dsa {

const char* dtype_name(dsa_dtype dtype);
dsa_dtype dtype_named(const std::string& name);
std::int64_t bytes_of(dsa_dtype dtype);

// A packed tensor.
dsa_tensor described(void* data, dsa_dtype dtype, const std::vector<std::int64_t>& shape);

class Call {
   public:
    Call(const Library& library, const std::string& op);

    // Fields of each kind in the struct's order.
    std::vector<const Field*> inputs() const { return of(FieldKind::input); }
    std::vector<const Field*> updated() const { return of(FieldKind::updated); }
    std::vector<const Field*> outputs() const { return of(FieldKind::output); }

    void whole(const std::string& name, std::int64_t value) { whole_[name] = value; }
    void real(const std::string& name, double value) { real_[name] = value; }
    void case_json(const char* text) { at<const char*>(op_.fields->case_json) = text; }
    void stream(void* stream) { at<void*>(op_.fields->stream) = stream; }
    void put(const Field& field, const dsa_tensor& tensor);
    // All inputs are put: the sizes that outputs and parameters follow from.
    void bind();
    std::vector<std::int64_t> shape_of(const Field& output) const;

    // All outputs are put. Bytes of workspace, or a refusal.
    std::int64_t workspace_bytes() const;
    void workspace(void* data, std::int64_t bytes);
    void run() const;

   private:
    template <class T>
    T& at(std::size_t offset) {
        return *reinterpret_cast<T*>(struct_.data() + offset);
    }
    std::vector<const Field*> of(FieldKind kind) const;
    [[noreturn]] void refuse_with(std::int64_t status) const;

    const Library& library_;
    const Library::Functions& op_;
    std::vector<std::byte> struct_;
    std::map<std::string, std::int64_t> whole_;
    std::map<std::string, double> real_;
    std::map<std::string, std::int64_t> sizes_;
};

}  // namespace dsa
