// wgmma.mma_async: a warpgroup's products, done late. PTX ISA, "Asynchronous warpgroup level matrix instructions".
//
// Each warp's 16 rows of the 64 are an operation of their own, begun when the warp has issued it: nothing in the
// instruction makes the four warps wait for each other. While a product is under way its accumulators are NaN;
// wgmma.wait_group puts the sums there. The products of one instruction and C are added in float64 and rounded once
// to float32; the hardware's own rounding inside one instruction is not documented, and coarser for e4m3.
#pragma once

#include <deque>
#include <list>
#include <string>
#include <tuple>
#include <vector>

#include "optimized/simulator/cluster.h"

namespace dsa::simulator {

// One instruction, as a thread brings it.
struct Product {
    unsigned columns;                  // N
    bool e4m3;                         // else numbers of 2 bytes
    const std::uint32_t* a_registers;  // 4 of them; nullptr: A lies in shared memory
    std::uint64_t a;                   // descriptors
    std::uint64_t b;
    bool add_to_d;  // scale-d
    bool negate_a;
    bool negate_b;
    bool a_is_mn_major;
    bool b_is_mn_major;
    float* d;          // N / 2 registers
    bool f16 = false;  // else bf16
};

class Products {
   public:
    explicit Products(Block& block);

    void fence(Where where);
    void multiply(const Product& product, Where where);
    void commit(Where where);
    void wait(unsigned kept, Where where);

    // When all threads have returned: every product has been waited for, by whole warpgroups.
    void check_at_the_end(const Block& block) const;
    // For the report of a deadlock.
    std::string who_is_missing(const Block& block) const;

   private:
    // What all warps of a warpgroup must agree on.
    using Signature =
        std::tuple<unsigned, bool, bool, bool, std::uint64_t, std::uint64_t, bool, bool, bool, bool, bool>;
    // The accumulators of a warp while products of theirs are under way.
    struct Accumulators {
        float* of_lane[32];
        unsigned count;             // a lane
        std::vector<float> values;  // [16, N]
        Ticket last;                // the youngest product that adds to them
        Where where;
    };
    struct Warp {
        bool fenced = false;
        std::uint64_t last_due = 0;
        Groups groups;
        std::list<Accumulators> under_way;
        std::vector<Ticket> waited;  // by the wait_group that the lanes are in
        std::uint64_t issued = 0;
    };
    struct Warpgroup {
        std::deque<Signature> seen;   // what some warp has issued and not all
        std::uint64_t forgotten = 0;  // how many came before
    };

    void check_warpgroup(const char* what, Where where) const;
    void agree(const Product& product, Where where);
    void issue(const std::uint64_t (&lanes)[32], Where where);
    void deliver(Warp& warp, Where where);

    Block& block_;
    std::vector<Warp> warps_;
    std::vector<Warpgroup> warpgroups_;
};

// The block's, made at the first call.
Products& products_of_this_block();

}  // namespace dsa::simulator
