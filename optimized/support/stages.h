// How a layer shows its stages: where a tensor exists anyway, at the moment when the work that fills it stands in the
// stream. Nothing is computed in order to be shown, and with nobody listening it costs a comparison. dsa.h, dsa_show.
#pragma once

#include <initializer_list>
#include <string>

#include "golden/dsa.h"
#include "optimized/support/arguments.h"

namespace dsa {

bool somebody_listens();

// While it is alive, stages of this thread are shown under names that begin with `prefix`: "layer_3.".
class StageScope {
   public:
    explicit StageScope(const std::string& prefix);
    ~StageScope();
    StageScope(const StageScope&) = delete;
    StageScope& operator=(const StageScope&) = delete;

   private:
    std::string before_;
};

namespace detail {
void show(const char* name, const void* data, dsa_dtype dtype, std::initializer_list<std::int64_t> shape,
          Stream stream);
}

// A packed tensor of `shape`.
template <class T>
void show(const char* name, const T* data, std::initializer_list<std::int64_t> shape, Stream stream) {
    if (somebody_listens()) detail::show(name, data, dtype_of<T>, shape, stream);
}

}  // namespace dsa
