// A shared library with functions of dsa.h, loaded by path: ours for a GPU, ours for the simulator, or anybody's.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "optimized/python/native/memory.h"
#include "optimized/tool/fields.h"

namespace dsa {

class Library {
   public:
    explicit Library(const std::string& path);

    struct Functions {
        const OpFields* fields;
        int (*run)(const void* args);
        std::int64_t (*workspace)(const void* args);  // null where it is not offered: none is needed
    };
    // Refused where the library does not offer it.
    const Functions& op(const std::string& name) const;
    std::vector<std::string> offers() const;
    bool wants_device_memory() const { return on_device_; }
    Memory& memory() const { return on_device_ ? device_memory() : host_memory(); }
    // The sentence of the last call that failed.
    std::string last_error() const;
    // Which level the calls of this thread run; 0: the highest that takes the call.
    void choose_level(int level) const;
    // The stages of this thread's calls go to `listener`; null: nobody listens.
    void show(dsa_listener listener, void* self) const;

   private:
    template <class Function>
    Function find(const std::string& name) const;

    void* handle_;
    std::string path_;
    bool on_device_ = false;
    std::map<std::string, Functions> ops_;
};

}  // namespace dsa
