#include "reference/model/checkpoint.h"

#include "reference/cases/fill.h"
#include "reference/numerics/philox.h"

namespace dsa {
namespace {

// One tensor of the checkpoint, [out, in] as Hugging Face stores linear layers, read element by element.
struct Source {
    std::shared_ptr<const Checkpoint> checkpoint;  // keeps the mapping alive
    std::span<const std::byte> bytes;
    DType dtype = DType::float32;
    Index in = 0;
    std::vector<float> block_scale;  // FP8: [ceil(out / 128), ceil(in / 128)]

    template <class T>
    T raw(Index i) const {
        T value;
        std::memcpy(&value, bytes.data() + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
        return value;
    }
    float at(Index row, Index col) const {
        const Index i = row * in + col;
        switch (dtype) {
            case DType::bfloat16: return to_float(bfloat16{raw<std::uint16_t>(i)});
            case DType::float8_e4m3: {
                const Index blocks = (in + quantization_block - 1) / quantization_block;
                const Index block = row / quantization_block * blocks + col / quantization_block;
                return to_float(float8_e4m3{raw<std::uint8_t>(i)}) * block_scale[static_cast<std::size_t>(block)];
            }
            default: return raw<float>(i);
        }
    }
};

class Loader {
   public:
    explicit Loader(std::shared_ptr<const Checkpoint> checkpoint) : checkpoint_(std::move(checkpoint)) {}

    bool has(const std::string& name) const { return checkpoint_->contains(name); }

    Array<float> vector(const std::string& name, Index size) const {
        const std::shared_ptr<const Source> source = open(name, {size});
        Array<float> values({size});
        for (Index i = 0; i < size; ++i) values[i] = source->at(0, i);
        return values;
    }

    // As stored, [rows, cols].
    Weight table(const std::string& name, Index rows, Index cols) const {
        const auto source = open(name, {rows, cols});
        return {name, rows, cols, [source](Index row, Index first, Index count, float* out) {
                    for (Index i = 0; i < count; ++i) out[i] = source->at(row, first + i);
                }};
    }

    // A linear layer from `in` to `out` features: stored [out, in], used as [in, out].
    Weight linear(const std::string& name, Index in, Index out) const {
        const auto source = open(name, {out, in});
        const Weight weight(name, in, out, [source](Index row, Index first, Index count, float* result) {
            for (Index i = 0; i < count; ++i) result[i] = source->at(first + i, row);
        });
        return source->dtype == DType::float8_e4m3 ? weight.marked_fp8() : weight;
    }

    // The part of kv_b_proj, [H (d_nope + d_v), R_kv], that holds `width` rows of each head from `offset` on.
    Weight heads(const std::string& name, Index R_kv, Index H, Index head_rows, Index offset, Index width) const {
        const auto source = open(name, {H * head_rows, R_kv});
        return {name, R_kv, H * width,
                [source, head_rows, offset, width](Index row, Index first, Index count, float* result) {
                    for (Index i = 0; i < count; ++i) {
                        const Index column = first + i;
                        result[i] = source->at(column / width * head_rows + offset + column % width, row);
                    }
                }};
    }

   private:
    std::shared_ptr<const Source> open(const std::string& name, const Shape& shape) const {
        const auto info = checkpoint_->info(name);
        require(info.shape == shape, "the weight ", name, " must have shape ", to_string(shape),
                " by config.json; it has ", to_string(info.shape));
        require(info.dtype == DType::float32 || info.dtype == DType::bfloat16 || info.dtype == DType::float8_e4m3,
                "the weight ", name, " must be float32, bfloat16 or float8_e4m3; it is ", name_of(info.dtype));
        auto source = std::make_shared<Source>();
        source->checkpoint = checkpoint_;
        source->bytes = checkpoint_->bytes(name);
        source->dtype = info.dtype;
        source->in = shape.back();
        if (info.dtype == DType::float8_e4m3) {
            const std::string scale_name = name + "_scale_inv";
            require(has(scale_name), "the FP8 weight ", name, " needs its block scales, ", scale_name,
                    "; the checkpoint has none");
            const StoredTensor scales = checkpoint_->tensor(scale_name);
            const auto blocks = [](Index n) { return (n + quantization_block - 1) / quantization_block; };
            const Shape expected{blocks(shape.front()), blocks(shape.back())};
            require(shape.size() == 2 && scales.shape == expected, "the block scales ", scale_name,
                    " must have shape ", to_string(expected), ", one for each 128 x 128; they have ",
                    to_string(scales.shape));
            for (Index i = 0; i < scales.size(); ++i)
                source->block_scale.push_back(static_cast<float>(scales.number(i)));
        }
        return source;
    }

    std::shared_ptr<const Checkpoint> checkpoint_;
};

FeedForwardWeights load_feed_forward(const Loader& load, const std::string& prefix, Index D, Index width) {
    return {load.linear(prefix + "gate_proj.weight", D, width), load.linear(prefix + "up_proj.weight", D, width),
            load.linear(prefix + "down_proj.weight", width, D)};
}

AttentionWeights load_attention(const Loader& load, const std::string& prefix, const ModelConfig& c) {
    AttentionWeights w;
    w.mla.heads = c.heads;
    w.mla.W_dq = load.linear(prefix + "q_a_proj.weight", c.D, c.R_q);
    w.mla.q_norm = load.vector(prefix + "q_a_layernorm.weight", c.R_q);
    w.mla.W_uq = load.linear(prefix + "q_b_proj.weight", c.R_q, c.heads * (c.d_nope + c.d_rope));
    w.mla.W_dkv = load.linear(prefix + "kv_a_proj_with_mqa.weight", c.D, c.R_kv + c.d_rope);
    w.mla.kv_norm = load.vector(prefix + "kv_a_layernorm.weight", c.R_kv);
    const std::string kv_b = prefix + "kv_b_proj.weight";
    w.mla.W_uk = load.heads(kv_b, c.R_kv, c.heads, c.d_nope + c.d_v, 0, c.d_nope);
    w.mla.W_uv = load.heads(kv_b, c.R_kv, c.heads, c.d_nope + c.d_v, c.d_nope, c.d_v);
    w.mla.W_o = load.linear(prefix + "o_proj.weight", c.heads * c.d_v, c.D);
    w.indexer.W_qI = load.linear(prefix + "indexer.wq_b.weight", c.R_q, c.H_I * c.D_I);
    w.indexer.W_kI = load.linear(prefix + "indexer.wk.weight", c.D, c.D_I);
    w.indexer.k_norm = load.vector(prefix + "indexer.k_norm.weight", c.D_I);
    w.indexer.k_bias = load.vector(prefix + "indexer.k_norm.bias", c.D_I);
    w.indexer.W_w = load.linear(prefix + "indexer.weights_proj.weight", c.D, c.H_I);
    return w;
}

// Every tensor of a model of these sizes, with a deviation that keeps activations near 1.
template <class Visit>
void visit_tensors(const ModelConfig& c, Visit&& visit) {
    const auto feed_forward = [&](const std::string& prefix, Index width) {
        visit(prefix + "gate_proj.weight", Shape{width, c.D});
        visit(prefix + "up_proj.weight", Shape{width, c.D});
        visit(prefix + "down_proj.weight", Shape{c.D, width});
    };
    visit("model.embed_tokens.weight", Shape{c.vocabulary, c.D});
    for (Index i = 0; i < c.layers; ++i) {
        const std::string layer = "model.layers." + std::to_string(i) + ".";
        const std::string attention = layer + "self_attn.";
        visit(layer + "input_layernorm.weight", Shape{c.D});
        visit(attention + "q_a_proj.weight", Shape{c.R_q, c.D});
        visit(attention + "q_a_layernorm.weight", Shape{c.R_q});
        visit(attention + "q_b_proj.weight", Shape{c.heads * (c.d_nope + c.d_rope), c.R_q});
        visit(attention + "kv_a_proj_with_mqa.weight", Shape{c.R_kv + c.d_rope, c.D});
        visit(attention + "kv_a_layernorm.weight", Shape{c.R_kv});
        visit(attention + "kv_b_proj.weight", Shape{c.heads * (c.d_nope + c.d_v), c.R_kv});
        visit(attention + "o_proj.weight", Shape{c.D, c.heads * c.d_v});
        visit(attention + "indexer.wq_b.weight", Shape{c.H_I * c.D_I, c.R_q});
        visit(attention + "indexer.wk.weight", Shape{c.D_I, c.D});
        visit(attention + "indexer.k_norm.weight", Shape{c.D_I});
        visit(attention + "indexer.k_norm.bias", Shape{c.D_I});
        visit(attention + "indexer.weights_proj.weight", Shape{c.H_I, c.D});
        visit(layer + "post_attention_layernorm.weight", Shape{c.D});
        if (i < c.dense_layers) {
            feed_forward(layer + "mlp.", c.dense_width);
            continue;
        }
        visit(layer + "mlp.gate.weight", Shape{c.experts, c.D});
        visit(layer + "mlp.gate.e_score_correction_bias", Shape{c.experts});
        for (Index e = 0; e < c.experts; ++e)
            feed_forward(layer + "mlp.experts." + std::to_string(e) + ".", c.expert_width);
        if (c.shared_experts > 0) feed_forward(layer + "mlp.shared_experts.", c.shared_experts * c.expert_width);
    }
    visit("model.norm.weight", Shape{c.D});
    if (!c.tied_embedding) visit("lm_head.weight", Shape{c.vocabulary, c.D});
}

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

ModelWeights load_model(const std::shared_ptr<const Checkpoint>& checkpoint, const ModelConfig& c) {
    const Loader load(checkpoint);
    ModelWeights w;
    w.embedding = load.table("model.embed_tokens.weight", c.vocabulary, c.D);
    for (Index i = 0; i < c.layers; ++i) {
        const std::string layer = "model.layers." + std::to_string(i) + ".";
        BlockWeights block;
        block.attention_norm = load.vector(layer + "input_layernorm.weight", c.D);
        block.attention = load_attention(load, layer + "self_attn.", c);
        block.ffn_norm = load.vector(layer + "post_attention_layernorm.weight", c.D);
        if (i < c.dense_layers) {
            block.dense = load_feed_forward(load, layer + "mlp.", c.D, c.dense_width);
        } else {
            MoeWeights moe;
            moe.W_g = load.linear(layer + "mlp.gate.weight", c.D, c.experts);
            const std::string bias = layer + "mlp.gate.e_score_correction_bias";
            moe.bias = load.has(bias) ? load.vector(bias, c.experts) : Array<float>({c.experts}, 0.0F);
            moe.expert = [load, layer, c](Index e) {
                return load_feed_forward(load, layer + "mlp.experts." + std::to_string(e) + ".", c.D, c.expert_width);
            };
            // Refuse now what would be missed in the middle of a run.
            for (Index e = 0; e < c.experts; ++e) moe.expert(e);
            if (c.shared_experts > 0)
                moe.shared =
                    load_feed_forward(load, layer + "mlp.shared_experts.", c.D, c.shared_experts * c.expert_width);
            moe.shape = c.gate;
            block.moe = std::move(moe);
        }
        w.blocks.push_back(std::move(block));
    }
    w.final_norm = load.vector("model.norm.weight", c.D);
    w.head = c.tied_embedding ? w.embedding.transposed() : load.linear("lm_head.weight", c.D, c.vocabulary);
    return w;
}

std::map<std::string, Shape> tensor_shapes(const ModelConfig& config) {
    std::map<std::string, Shape> shapes;
    visit_tensors(config, [&](const std::string& name, const Shape& shape) { shapes.emplace(name, shape); });
    return shapes;
}

std::map<std::string, StoredTensor> random_weights(const ModelConfig& config, std::uint64_t seed) {
    std::map<std::string, StoredTensor> weights;
    visit_tensors(config, [&](const std::string& name, const Shape& shape) {
        const bool is_norm = ends_with(name, "norm.weight");
        const bool is_bias = ends_with(name, "bias");
        // A row of `in` numbers of size 1 gives a sum of size 1 at deviation 1 / sqrt(in). Queries are made
        // larger, so that attention has something to prefer; the embedding has deviation 1.
        double std = 1.0 / std::sqrt(static_cast<double>(shape.back()));
        if (is_norm) std = 0.1;
        if (is_bias) std = 0.05;
        if (ends_with(name, "embed_tokens.weight")) std = 1.0;
        if (ends_with(name, "q_b_proj.weight") || ends_with(name, "wq_b.weight")) std *= 3.0;
        const RandomTensor random{seed, tensor_id(name)};
        const float constant = bell_constant(std);
        Array<float> values(shape);
        for (Index i = 0; i < values.size(); ++i)
            values[i] = bell_sample(random, constant, static_cast<std::uint64_t>(i)) + (is_norm ? 1.0F : 0.0F);
        const bool kept_in_float32 = is_norm || is_bias || ends_with(name, "mlp.gate.weight");
        weights.emplace(name, store(values, kept_in_float32 ? DType::float32 : DType::bfloat16));
    });
    return weights;
}

}  // namespace dsa
