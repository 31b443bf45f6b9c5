// dsa_optimized._native: libraries of dsa.h, called on arrays that speak DLPack.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>

#include "optimized/python/native/array.h"

namespace dsa {
namespace {

using nb::literals::operator""_a;

// A status has a Python exception: all of them are caught as ValueError, RuntimeError, MemoryError or
// NotImplementedError too.
struct Errors {
    nb::object bad_argument, misaligned, no_device, launch_failed;

    nb::handle of(Status status) const {
        switch (status) {
            case Status::misaligned: return misaligned;
            case Status::no_gpu:
            case Status::wrong_architecture: return no_device;
            case Status::out_of_memory: return PyExc_MemoryError;
            case Status::launch_failed: return launch_failed;
            case Status::not_implemented: return PyExc_NotImplementedError;
            default: return bad_argument;
        }
    }
};
Errors* errors = nullptr;  // never destroyed: a translator may run at the very end

nb::object exception(nb::module_& module, const char* name, nb::handle base) {
    const std::string full = std::string("dsa_optimized.") + name;
    nb::object made = nb::steal(PyErr_NewException(full.c_str(), base.ptr(), nullptr));
    module.attr(name) = made;
    return made;
}

Array view_of(const dsa_tensor& tensor, const Library& library) {
    return {nullptr, tensor, &library.memory(), library.wants_device_memory()};
}

Array empty(const Library& library, const std::vector<std::int64_t>& shape, const std::string& dtype) {
    Array array{nullptr, described(nullptr, dtype_named(dtype), shape), &library.memory(),
                library.wants_device_memory()};
    array.owner = std::make_shared<Buffer>(library.memory(), static_cast<std::size_t>(array.bytes()));
    array.tensor.data = array.owner->data();
    return array;
}

// An array that lies row after row, as the Array functions copy it.
template <class... Arguments>
Given packed(nb::handle object, const Array& like) {
    Given other = given<Arguments...>(object, "the other array", like.on_device);
    std::int64_t bytes = bytes_of(static_cast<dsa_dtype>(other.tensor.dtype));
    for (int i = other.tensor.rank; i-- > 0;) {
        require(other.tensor.shape[i] <= 1 ||
                    other.tensor.stride[i] * bytes_of(static_cast<dsa_dtype>(other.tensor.dtype)) == bytes,
                "the other array must be packed, row after row");
        bytes *= other.tensor.shape[i];
    }
    require(bytes == like.bytes(), "both arrays must have the same number of bytes; one has ", like.bytes(),
            ", the other ", bytes);
    return other;
}

nb::object dlpack_of(nb::handle self) {
    const auto& array = nb::cast<const Array&>(self);
    std::vector<std::size_t> shape(array.tensor.shape, array.tensor.shape + array.tensor.rank);
    return nb::cast(nb::ndarray<nb::array_api>(array.tensor.data, shape.size(), shape.data(), self,
                                               array.tensor.stride, dlpack_dtypes[array.dtype()],
                                               array.on_device ? on_cuda : on_host));
}

// Hands a call's stages to a Python function, and keeps what that throws until C has returned.
class Stages {
   public:
    Stages(const Library& library, nb::object function) : library_(library), function_(std::move(function)) {
        if (!function_.is_none()) library_.show(&Stages::listen, this);
    }
    ~Stages() {
        if (!function_.is_none()) library_.show(nullptr, nullptr);
    }
    Stages(const Stages&) = delete;
    Stages& operator=(const Stages&) = delete;
    void rethrow() {
        if (failure_) std::rethrow_exception(failure_);
    }

   private:
    static void listen(void* self, const char* name, const dsa_tensor* tensor, void*) {
        auto& stages = *static_cast<Stages*>(self);
        const nb::gil_scoped_acquire locked;
        try {
            if (!stages.failure_) stages.function_(nb::str(name), view_of(*tensor, stages.library_));
        } catch (...) {
            stages.failure_ = std::current_exception();
        }
    }
    const Library& library_;
    nb::object function_;
    std::exception_ptr failure_;
};

void read_parameters(Call& call, const nb::dict& parameters) {
    for (const auto& [key, value] : parameters) {
        const auto name = nb::cast<std::string>(key);
        if (PyFloat_Check(value.ptr())) call.real(name, nb::cast<double>(value));
        if (!PyLong_Check(value.ptr())) continue;  // a bool is a long, too
        call.whole(name, nb::cast<std::int64_t>(value));
        call.real(name, nb::cast<double>(nb::float_(nb::borrow(value))));
    }
}

// inputs, outputs: in the order of the struct's fields, None for what is not given. quantised: the dtype of outputs
// that follow the quantiser. allocate(shape, dtype) makes the outputs that are missing, workspace(bytes) the scratch.
// -> all outputs
nb::list call(const Library& library, const std::string& op, const nb::sequence& inputs, const nb::sequence& outputs,
              const nb::dict& parameters, const std::optional<std::string>& case_json, std::uintptr_t stream,
              const std::string& quantised, const nb::object& allocate, const nb::object& workspace,
              const nb::object& stages) {
    Call call(library, op);
    const bool device = library.wants_device_memory();
    std::vector<nb::object> keepers;
    const auto place = [&](const Field& field, Given found) {
        call.put(field, found.tensor);
        keepers.push_back(std::move(found.keeper));
    };
    const std::vector<const Field*> input_fields = call.inputs();
    require(nb::len(inputs) == input_fields.size(), op, " has ", input_fields.size(), " inputs; ", nb::len(inputs),
            " were given");
    for (std::size_t i = 0; i < input_fields.size(); ++i) {
        const nb::object object = inputs[i];
        require(!object.is_none() || input_fields[i]->optional, op, " needs ", input_fields[i]->name,
                "; None was given");
        if (!object.is_none()) place(*input_fields[i], given<nb::ro>(object, input_fields[i]->name, device));
    }
    read_parameters(call, parameters);
    call.bind();
    const std::vector<const Field*> output_fields = call.outputs();
    require(nb::len(outputs) == output_fields.size(), op, " has ", output_fields.size(), " outputs; ",
            nb::len(outputs), " were given");
    nb::list results;
    for (std::size_t i = 0; i < output_fields.size(); ++i) {
        nb::object object = outputs[i];
        const Field& field = *output_fields[i];
        if (object.is_none())
            object = allocate(nb::cast(call.shape_of(field)), field.dtype == "quantised" ? quantised : field.dtype);
        place(field, given<>(object, field.name, device));
        results.append(object);
    }
    if (case_json) call.case_json(case_json->c_str());
    call.stream(reinterpret_cast<void*>(stream));
    const std::int64_t bytes = call.workspace_bytes();
    if (bytes > 0) {
        Given scratch = given<>(workspace(bytes), "the workspace", device);
        call.workspace(scratch.tensor.data, bytes);
        keepers.push_back(std::move(scratch.keeper));
    }
    Stages shown(library, stages);
    {
        const nb::gil_scoped_release unlocked;
        call.run();
    }
    shown.rethrow();
    return results;
}

}  // namespace

NB_MODULE(_native, module) {
    // A library that lives as long as the process is no leak: PyTorch's ops hold theirs.
    nb::set_leak_warnings(false);
    errors = new Errors;
    errors->bad_argument = exception(module, "BadArgument", PyExc_ValueError);
    errors->misaligned = exception(module, "Misaligned", errors->bad_argument);
    errors->no_device = exception(module, "NoDevice", PyExc_RuntimeError);
    errors->launch_failed = exception(module, "LaunchFailed", PyExc_RuntimeError);
    nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
        try {
            std::rethrow_exception(thrown);
        } catch (const Refusal& refusal) {
            PyErr_SetString(errors->of(refusal.status()).ptr(), refusal.what());
        }
    });

    nb::class_<Array>(module, "Array", "An array in a library's memory. It speaks DLPack.")
        .def_prop_ro("shape", [](const Array& array) { return nb::tuple(nb::cast(array.shape())); })
        .def_prop_ro("dtype", [](const Array& array) { return dtype_name(array.dtype()); })
        .def_prop_ro("nbytes", &Array::bytes)
        .def("__dlpack__",
             [](nb::handle self, const nb::kwargs& how) { return dlpack_of(self).attr("__dlpack__")(**how); })
        .def("__dlpack_device__",
             [](const Array& array) { return nb::make_tuple(array.on_device ? on_cuda : on_host, 0); })
        .def(
            "rows",
            [](const Array& array, std::int64_t first, std::int64_t count) {
                require(array.tensor.rank > 0 && first >= 0 && count >= 0 && first + count <= array.tensor.shape[0],
                        "there are no rows ", first, " to ", first + count - 1);
                Array part = array;
                part.tensor.shape[0] = count;
                part.tensor.data = static_cast<unsigned char*>(array.tensor.data) +
                                   first * array.tensor.stride[0] * bytes_of(array.dtype());
                return part;
            },
            "first"_a, "count"_a, nb::keep_alive<0, 1>(), "Rows first ... first + count - 1, of the same memory.")
        .def(
            "copy_from",
            [](const Array& array, nb::handle other) {
                const Given source = packed<nb::ro>(other, array);
                array.memory->copy(array.tensor.data, source.tensor.data, static_cast<std::size_t>(array.bytes()));
            },
            "other"_a,
            "Another array of the same memory and as many bytes comes here, in the order of the default stream.")
        .def(
            "write",
            [](const Array& array, nb::handle host) {
                Array place = array;
                place.on_device = false;
                const Given source = packed<nb::ro>(host, place);
                array.memory->copy(array.tensor.data, source.tensor.data, static_cast<std::size_t>(array.bytes()));
            },
            "host"_a, "The bytes of an array of the host.")
        .def(
            "read",
            [](const Array& array, nb::handle host) {
                Array place = array;
                place.on_device = false;
                const Given target = packed<>(host, place);
                array.memory->synchronise();
                array.memory->copy(target.tensor.data, array.tensor.data, static_cast<std::size_t>(array.bytes()));
            },
            "host"_a, "Waits for the kernels, and copies the bytes into an array of the host.");

    nb::class_<Library>(module, "Library")
        .def(nb::init<const std::string&>(), "path"_a)
        .def_prop_ro("offers", &Library::offers)
        .def_prop_ro("wants_device_memory", &Library::wants_device_memory)
        .def("choose_level", &Library::choose_level, "level"_a)
        .def("synchronise", [](const Library& library) { library.memory().synchronise(); })
        .def("empty", &empty, "shape"_a, "dtype"_a, nb::keep_alive<0, 1>(), "Room for an array, as it is found.")
        .def("call", &call, "op"_a, "inputs"_a, "outputs"_a, "parameters"_a, "case_json"_a.none(), "stream"_a,
             "quantised"_a, "allocate"_a, "workspace"_a, "stages"_a.none());
}

}  // namespace dsa
