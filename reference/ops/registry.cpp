#include "reference/ops/registry.h"

namespace dsa {

const std::vector<Op>& all_ops() {
    static const std::vector<Op> ops = [] {
        std::vector<Op> all;
        for (const auto family : {elementwise_ops, projection_ops, indexer_ops, attention_ops, page_ops, moe_ops,
                                  training_ops, gradient_ops, training_step_ops, layer_ops})
            for (Op& op : family()) all.push_back(std::move(op));
        return all;
    }();
    return ops;
}

const Op* find_op(const std::string& name) {
    for (const Op& op : all_ops())
        if (op.name == name) return &op;
    return nullptr;
}

}  // namespace dsa
