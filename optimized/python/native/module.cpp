// dsa_optimized._native: libraries of dsa.h, called on arrays that speak DLPack.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>

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

// A call whose tensors and parameters are checked and kept: it runs as often as it is asked to, on the same memory.
class Planned {
   public:
    // inputs, updated, outputs: in the order of the struct's fields, None for what is not given. quantised: the dtype
    // of outputs that follow the quantiser. allocate(shape, dtype) makes the outputs that are missing.
    Planned(const Library& library, const std::string& op, const nb::sequence& inputs, const nb::sequence& updated,
            const nb::sequence& outputs, const nb::dict& parameters, const std::optional<std::string>& case_json,
            const std::string& quantised, const nb::object& allocate)
        : library_(library), call_(library, op), about_(case_json.value_or("")) {
        const bool device = library.wants_device_memory();
        const auto counted = [&](const nb::sequence& objects, const std::vector<const Field*>& fields,
                                 const char* what) {
            require(nb::len(objects) == fields.size(), op, " has ", fields.size(), " ", what, "; ", nb::len(objects),
                    " were given");
            return fields;
        };
        std::size_t i = 0;
        const auto needed = [&](const nb::sequence& objects, const Field& field) {
            nb::object object = objects[i++];
            require(!object.is_none() || field.optional, op, " needs ", field.name, "; None was given");
            return object;
        };
        for (const Field* field : counted(inputs, call_.inputs(), "inputs"))
            if (const nb::object object = needed(inputs, *field); !object.is_none())
                place(*field, given<nb::ro>(object, field->name, device));
        i = 0;
        for (const Field* field : counted(updated, call_.updated(), "tensors that are read and written"))
            place(*field, given<>(needed(updated, *field), field->name, device));
        read_parameters(call_, parameters);
        call_.bind();
        i = 0;
        for (const Field* field : counted(outputs, call_.outputs(), "outputs")) {
            nb::object object = outputs[i++];
            if (object.is_none())
                object = allocate(nb::cast(call_.shape_of(*field)),
                                  field->dtype == "quantised" ? quantised : field->dtype);
            place(*field, given<>(object, field->name, device));
            results_.append(object);
        }
        if (case_json) call_.case_json(about_.c_str());
        workspace_bytes_ = call_.workspace_bytes();
    }
    Planned(const Planned&) = delete;
    Planned& operator=(const Planned&) = delete;

    std::int64_t workspace_bytes() const { return workspace_bytes_; }
    void workspace(nb::handle array) {
        Given scratch = given<>(array, "the workspace", library_.wants_device_memory());
        require(scratch.tensor.dtype == dsa_uint8 && scratch.tensor.rank == 1 &&
                    (scratch.tensor.shape[0] <= 1 || scratch.tensor.stride[0] == 1),
                "the workspace must be packed uint8 numbers of one axis");
        require(scratch.tensor.shape[0] >= workspace_bytes_, "the workspace must have at least ", workspace_bytes_,
                " bytes; it has ", scratch.tensor.shape[0]);
        call_.workspace(scratch.tensor.data, scratch.tensor.shape[0]);
        workspace_ = std::move(scratch.keeper);
    }
    // -> all outputs
    nb::list run(std::uintptr_t stream, const nb::object& stages) {
        require(workspace_bytes_ == 0 || workspace_.is_valid(), "a call that is planned needs a workspace of ",
                workspace_bytes_, " bytes before it runs");
        call_.stream(reinterpret_cast<void*>(stream));
        Stages shown(library_, stages);
        {
            const nb::gil_scoped_release unlocked;
            call_.run();
        }
        shown.rethrow();
        return results_;
    }

   private:
    void place(const Field& field, Given found) {
        call_.put(field, found.tensor);
        keepers_.push_back(std::move(found.keeper));
    }

    const Library& library_;
    Call call_;
    std::string about_;
    std::vector<nb::object> keepers_;
    nb::object workspace_;
    nb::list results_;
    std::int64_t workspace_bytes_ = 0;
};

// The same at once. workspace(bytes) makes the scratch.
nb::list call(const Library& library, const std::string& op, const nb::sequence& inputs, const nb::sequence& outputs,
              const nb::dict& parameters, const std::optional<std::string>& case_json, std::uintptr_t stream,
              const std::string& quantised, const nb::object& allocate, const nb::object& workspace,
              const nb::object& stages) {
    const auto updated = nb::borrow<nb::sequence>(nb::list());
    Planned planned(library, op, inputs, updated, outputs, parameters, case_json, quantised, allocate);
    if (planned.workspace_bytes() > 0) planned.workspace(workspace(planned.workspace_bytes()));
    return planned.run(stream, stages);
}

// Which tensors an op is given: what it reads, and what it reads and writes.
nb::tuple takes(const Library& library, const std::string& op) {
    const Call call(library, op);
    const auto names = [](const std::vector<const Field*>& fields) {
        nb::list all;
        for (const Field* field : fields) all.append(nb::str(field->name.c_str()));
        return all;
    };
    return nb::make_tuple(names(call.inputs()), names(call.updated()));
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

    nb::class_<Planned>(module, "Planned", "A call whose tensors and parameters are checked and kept.")
        .def_prop_ro("workspace_bytes", &Planned::workspace_bytes)
        .def("workspace", &Planned::workspace, "array"_a, "Its scratch: uint8, of workspace_bytes or more.")
        .def("run", &Planned::run, "stream"_a, "stages"_a.none(), "-> all outputs");

    nb::class_<Library>(module, "Library")
        .def(nb::init<const std::string&>(), "path"_a)
        .def_prop_ro("offers", &Library::offers)
        .def_prop_ro("wants_device_memory", &Library::wants_device_memory)
        .def("choose_level", &Library::choose_level, "level"_a)
        .def("synchronise", [](const Library& library) { library.memory().synchronise(); })
        .def("empty", &empty, "shape"_a, "dtype"_a, nb::keep_alive<0, 1>(), "Room for an array, as it is found.")
        .def("takes", &takes, "op"_a)
        .def(
            "plan",
            [](const Library& library, const std::string& op, const nb::sequence& inputs, const nb::sequence& updated,
               const nb::sequence& outputs, const nb::dict& parameters, const std::optional<std::string>& case_json,
               const std::string& quantised, const nb::object& allocate) {
                return std::make_unique<Planned>(library, op, inputs, updated, outputs, parameters, case_json,
                                                 quantised, allocate);
            },
            "op"_a, "inputs"_a, "updated"_a, "outputs"_a, "parameters"_a, "case_json"_a.none(), "quantised"_a,
            "allocate"_a, nb::keep_alive<0, 1>())
        .def("call", &call, "op"_a, "inputs"_a, "outputs"_a, "parameters"_a, "case_json"_a.none(), "stream"_a,
             "quantised"_a, "allocate"_a, "workspace"_a, "stages"_a.none());
}

}  // namespace dsa
