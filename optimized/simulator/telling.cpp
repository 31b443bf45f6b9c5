// The sentences of what a worker found, and of what two workers' clusters did to each other.
#include <algorithm>

#include "optimized/simulator/block.h"
#include "optimized/simulator/worker.h"

namespace dsa::simulator {
namespace {

const char* verb(Access access) {
    return access == Access::read ? "reads" : access == Access::write ? "writes" : "updates";
}

std::string hexadecimal(const void* address) {
    char text[32];
    std::snprintf(text, sizeof text, "%p", address);
    return text;
}

}  // namespace

const Worker::Past& Worker::past_of(Deed deed) const {
    const auto after =
        std::partition_point(past_.begin(), past_.end(), [&](const Past& past) { return past.start < deed.clock(); });
    return after == past_.begin() ? past_.front() : *(after - 1);
}

// "block (0, 0, 0), thread 3", or the thread that began the operation.
std::string Worker::text_of_actor(Deed deed) const {
    const Past& past = past_of(deed);
    Agent agent = deed.agent();
    const unsigned threads = past.threads * std::max(1U, past.blocks);
    if (agent >= threads) agent = past.thread_of_slot[(agent - threads) / 2];
    const Dim3 block(past.first.x + agent / past.threads, past.first.y, past.first.z);
    return "block " + text_of(block) + ", thread " + std::to_string(agent % past.threads);
}

void Worker::tell(const Finding& finding, const Actor& actor, Deed now, Access access, const std::byte* byte) const {
    const Past& here = past_.back();
    const unsigned threads = here.threads * here.blocks;
    std::string text = text_of_actor(now) + ", " + text_of_site(now.site()) + ": " + verb(access) + " ";
    const auto shared = std::find_if(blocks_.begin(), blocks_.end(), [&](const BlockState& block) {
        return block.shared != nullptr && byte >= block.shared && byte < block.shared + block.bytes;
    });
    const bool in_shared = shared != blocks_.end();
    if (finding.kind == Kind::beyond && !in_shared) {
        for (const BlockState& block : blocks_)
            if (block.shared != nullptr && byte + 1024 >= block.shared && byte < block.shared + block.bytes + 1024)
                throw Fault(text + "byte " + std::to_string(byte - block.shared) +
                            " of shared memory; the kernel was launched with " + std::to_string(block.bytes));
        throw Fault(text + "global memory at " + hexadecimal(byte) + ", beyond the end of a buffer");
    }
    text += in_shared ? "byte " + std::to_string(byte - shared->shared) + " of shared memory"
                      : "global memory at " + hexadecimal(byte);
    if (finding.kind == Kind::unwritten) throw Fault(text + ", which nobody has written");
    const Deed before = finding.before;
    const bool by_operation = before.clock() > here.start && before.agent() >= threads;
    const bool was_read = finding.kind == Kind::read_write;
    text += ", which " + (by_operation ? text_of_site(before.site()) + " (of " + text_of_actor(before) + ")"
                                       : text_of_actor(before));
    text += was_read ? " has read" : before.atomic() ? " has updated" : " has written";
    if (!by_operation) text += " at " + text_of_site(before.site());
    if (finding.kind == Kind::no_fence)
        throw Fault(text + ": the asynchronous proxy does not see it, since no fence.proxy.async lies between");
    text += was_read                           ? ": write after read"
            : finding.kind == Kind::write_read ? ": read after write"
                                               : ": write after write";
    const Agent other = before.agent();
    if (before.clock() <= here.start)
        text += "; blocks of a grid are in no order, so both must be atomic, or in two launches";
    else if (by_operation)
        text += ", and nobody has waited for it in between";
    else if (actor.agent >= threads || other / here.threads == actor.agent / here.threads)
        text += actor.agent < threads && other / 32 == actor.agent / 32 && here.threads % 32 == 0
                    ? " by lanes of one warp, with no __syncwarp of both between (shuffles and votes order no memory)"
                    : ", with no barrier of both between (__syncthreads, say)";
    else
        text += ", with no barrier of the cluster between";
    throw Fault(text);
}

void Worker::tell_of_visit(const BlockState& of, Deed deed) const {
    const Past& here = past_.back();
    const Agent threads = here.threads * here.blocks, agent = deed.agent();
    const Agent thread = agent < threads ? agent : here.thread_of_slot[(agent - threads) / 2];
    throw Fault(text_of_actor(deed) + ", " + text_of_site(deed.site()) + ": uses the shared memory of block " +
                text_of(of.block->index()) + ", which may have returned by then: " +
                (thread / here.threads == of.block->rank()
                     ? "one of its threads must wait for it before it ends"
                     : "blocks of a cluster must wait for each other before they end"));
}

void Worker::compare(const Worker& a, const Worker& b) {
    for (const auto& [number, page] : a.pages_) {
        const auto other = b.pages_.find(number);
        if (other == b.pages_.end() || (!page->changed && !other->second->changed)) continue;
        for (std::size_t i = 0; i < page->cells.size(); ++i) {
            const Clash clash =
                simulator::compare(page->cells[i], a.global_lists_, other->second->cells[i], b.global_lists_);
            if (clash.kind == Kind::none) continue;
            // Whose deeds are whose: the first may be either's.
            const std::uintptr_t byte = number * page_bytes + i * 4 + clash.byte;
            const Worker& first = clash.swapped ? b : a;
            const Worker& second = clash.swapped ? a : b;
            throw Fault(first.text_of_actor(clash.first) + ", " + text_of_site(clash.first.site()) + ": " +
                        (clash.first.atomic() ? "updates" : "writes") + " global memory at " +
                        hexadecimal(reinterpret_cast<const void*>(byte)) + ", which " +
                        second.text_of_actor(clash.second) +
                        (clash.second.atomic()            ? " updates"
                         : clash.kind == Kind::write_read ? " reads"
                                                          : " writes") +
                        " at " + text_of_site(clash.second.site()) +
                        "; blocks of a grid are in no order, so both must be atomic, or in two launches");
        }
    }
}

}  // namespace dsa::simulator
