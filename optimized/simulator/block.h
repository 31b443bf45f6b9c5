// A thread block at work: its threads, its shared memory, its barriers, and the exchanges of its warps.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "optimized/simulator/registers.h"
#include "optimized/simulator/thread.h"

namespace dsa::simulator {

class Cluster;
class Products;

struct Shape {
    Dim3 grid;
    Dim3 block;
    std::size_t shared_bytes = 0;
    unsigned cluster = 1;            // blocks of a cluster, along x
    bool overlaps_previous = false;  // started before the kernel ahead of it in the stream has ended
};

class Block {
   public:
    // index: in the grid. rank: in the cluster.
    Block(const Shape& shape, Dim3 index, unsigned rank, Cluster& cluster);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    const Shape& shape() const { return shape_; }
    Dim3 index() const { return index_; }
    unsigned rank() const { return rank_; }
    Cluster& cluster() const { return cluster_; }
    std::vector<Thread>& threads() { return threads_; }
    const std::vector<Thread>& threads() const { return threads_; }
    unsigned living() const { return living_; }

    // Aligned to 1024 bytes; every byte is 0xff before anything is written, which makes a NaN of every float.
    std::byte* shared() const { return shared_; }
    bool holds(const void* bytes, std::size_t count) const;

    // bar.sync and bar.arrive: barrier `number` is complete when `count` threads have come to it.
    void named_barrier(unsigned number, unsigned count, bool waits, Where where);
    // bar.red.or: the same of those who sync, each of whom hears whether anybody brought true.
    bool any_at_barrier(unsigned number, unsigned count, bool mine, Where where);
    // __syncthreads: all threads that have not returned.
    void barrier_of_all(Where where);
    // Every lane of `mask` brings a value; each then finds all of them in Thread::received. The last to come does
    // `work` with the 32 lanes' values before any lane goes on. `orders`: what the lanes wrote before, all see after.
    using Work = std::function<void(const std::uint64_t (&values)[32])>;
    void exchange(std::uint32_t mask, std::uint64_t value, const char* what, Where where, const Work& work = nullptr,
                  bool orders = false);

    // "block (1, 0, 0), thread 33, rms_norm.cu:41: "
    std::string place(Where where) const;
    // The other threads' turn, at a place where waiting is allowed but nothing is waited for.
    void yield();

    // griddepcontrol.wait. Not inline: what a kernel's file compiles is seen as the kernel's.
    void waits_for_previous();
    void has_returned(const Thread& thread);
    // "2 threads wait at ..."; nothing if nobody does.
    std::string who_waits() const;

    Registers registers;                 // setmaxnreg's bookkeeping
    std::unique_ptr<Products> products;  // wgmma's, made at the first product
   private:
    struct Barrier {
        unsigned arrived = 0;
        unsigned count = 0;
        std::uint64_t round = 0;
        std::vector<Thread*> waiting;
        std::vector<std::uint32_t> lanes;  // who has come, by warp
        bool any = false;                  // somebody brought true
    };
    struct Exchange {
        std::uint32_t arrived = 0;
        std::uint64_t values[2][32] =
            {};  // of even and odd rounds: lanes still look at the one when others bring the next
        const char* what = "";
        std::uint64_t round = 0;
    };

    void complete(Barrier& barrier);
    [[noreturn]] void tell_who_is_gone(std::uint32_t mask, const char* what, Where where) const;
    void check_whole_warps(const Barrier& barrier, unsigned number, Where where) const;

    Shape shape_;
    Dim3 index_;
    unsigned rank_;
    Cluster& cluster_;
    std::vector<Thread> threads_;
    unsigned living_;
    bool waited_for_previous_ = false;
    std::unique_ptr<std::byte[]> shared_memory_;
    std::byte* shared_ = nullptr;
    std::map<unsigned, Barrier> barriers_;
    Barrier all_;
    std::vector<std::uint32_t> gone_;  // by warp: lanes that have returned, and those that the block does not have
    std::vector<Exchange> exchanges_of_all_lanes_;                              // by warp
    std::map<std::pair<unsigned, std::uint32_t>, Exchange> exchanges_of_some_;  // by warp and mask
};

// Of the thread whose turn it is.
Dim3 thread_index();
Dim3 block_index();
Dim3 block_dim();
Dim3 grid_dim();

// The place of a thread that need not be the one whose turn it is.
std::string place_of(const Thread& thread, Where where);

}  // namespace dsa::simulator
