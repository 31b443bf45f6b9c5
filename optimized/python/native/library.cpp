#include "optimized/python/native/library.h"

#include <dlfcn.h>

#include "optimized/support/refusal.h"

namespace dsa {

template <class Function>
Function Library::find(const std::string& name) const {
    return reinterpret_cast<Function>(dlsym(handle_, name.c_str()));
}

Library::Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)), path_(path) {
    require(handle_ != nullptr, "the library ", path, " cannot be loaded: ", dlerror());
    for (const auto* all : {&all_fields(), &serving_fields()})
        for (const OpFields& fields : *all)
            if (const auto run = find<int (*)(const void*)>("dsa_" + fields.name))
                ops_[fields.name] = {&fields, run,
                                     find<std::int64_t (*)(const void*)>("dsa_" + fields.name + "_workspace")};
    require(!ops_.empty(), "the library ", path, " has none of dsa.h's functions (dsa_rms_norm, dsa_top_k, ...)");
    if (const auto wants = find<int (*)()>("dsa_wants_device_memory")) on_device_ = wants() != 0;
}

const Library::Functions& Library::op(const std::string& name) const {
    const auto found = ops_.find(name);
    if (found == ops_.end()) refuse(Status::not_implemented, "the library ", path_, " has no dsa_", name);
    return found->second;
}

std::vector<std::string> Library::offers() const {
    std::vector<std::string> names;
    for (const OpFields& fields : all_fields())
        if (ops_.contains(fields.name)) names.push_back(fields.name);
    return names;
}

std::string Library::last_error() const {
    const auto told = find<const char* (*)()>("dsa_last_error");
    const char* text = told == nullptr ? nullptr : told();
    return text == nullptr || *text == '\0' ? "and said nothing" : text;
}

void Library::choose_level(int level) const {
    const auto choose = find<void (*)(int)>("dsa_choose_level");
    if (choose == nullptr) refuse(Status::not_implemented, "the library ", path_, " has no levels to choose from");
    choose(level);
}

void Library::show(dsa_listener listener, void* self) const {
    const auto show = find<void (*)(dsa_listener, void*)>("dsa_show");
    if (show == nullptr)
        refuse(Status::not_implemented, "the library ", path_, " shows no stages: it has no dsa_show");
    show(listener, self);
}

}  // namespace dsa
