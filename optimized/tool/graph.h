// A call as a CUDA graph: what dsa_OP starts on a stream is recorded once and replayed. It can be, because nothing is
// allocated, waited for or read back inside a call.
#pragma once

#include "optimized/support/refusal.h"
#include "optimized/tool/memory.h"

namespace dsa {

#if defined(DSA_SIMULATOR)

class Graph {
   public:
    template <class Start>
    explicit Graph(const Start&) {
        refuse(Status::not_implemented,
               "the simulator has no CUDA graphs: leave out --graph, or run dsa-optimized on a GPU");
    }
    void replay() const {}
};

#else

class Graph {
   public:
    // start(stream) is recorded, not run.
    template <class Start>
    explicit Graph(const Start& start) {
        detail::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream could not be made");
        detail::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "no capture could begin");
        cudaGraph_t graph = nullptr;
        try {
            start(stream_);
        } catch (...) {
            cudaStreamEndCapture(stream_, &graph);
            cudaGraphDestroy(graph);
            cudaStreamDestroy(stream_);
            throw;
        }
        detail::check(cudaStreamEndCapture(stream_, &graph), "the call cannot be captured");
        detail::check(cudaGraphInstantiate(&executable_, graph, 0), "the graph could not be instantiated");
        cudaGraphDestroy(graph);
    }
    ~Graph() {
        cudaGraphExecDestroy(executable_);
        cudaStreamDestroy(stream_);
    }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void replay() const {
        synchronise();  // what was written on other streams
        detail::check(cudaGraphLaunch(executable_, stream_), "the graph could not be replayed");
    }

   private:
    cudaStream_t stream_ = nullptr;
    cudaGraphExec_t executable_ = nullptr;
};

#endif

}  // namespace dsa
