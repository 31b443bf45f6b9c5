#include "optimized/support/stages.h"

namespace dsa {
namespace {

thread_local dsa_listener listener = nullptr;  // of this thread's calls
thread_local void* listener_self = nullptr;
thread_local std::string scope;  // what their names begin with

}  // namespace

StageScope::StageScope(const std::string& prefix) : before_(scope) { scope += prefix; }
StageScope::~StageScope() { scope = before_; }

bool somebody_listens() { return listener != nullptr; }

void detail::show(const char* name, const void* data, dsa_dtype dtype, std::initializer_list<std::int64_t> shape,
                  Stream stream) {
    dsa_tensor tensor{const_cast<void*>(data), dtype, static_cast<std::int32_t>(shape.size()), {}, {}};
    std::int64_t stride = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
        tensor.shape[i] = shape.begin()[i];
        tensor.stride[i] = stride;
        stride *= tensor.shape[i];
    }
    listener(listener_self, (scope + name).c_str(), &tensor, stream);
}

}  // namespace dsa

extern "C" void dsa_show(dsa_listener listener, void* self) {
    dsa::listener = listener;
    dsa::listener_self = self;
}
