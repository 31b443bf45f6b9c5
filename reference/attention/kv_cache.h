// How do serving systems keep the cache? In pages of 64 tokens, in 8-bit numbers with scales beside them.
// These are the exact bytes. spec section 10; deepseek-ai/FlashMLA, README, "FP8 KV cache"; DeepGEMM's
// paged indexer layout.
#pragma once

#include "reference/attention/quantize.h"

namespace dsa {

inline constexpr Index page_tokens = 64;

// Bytes of one token in a KV page: R_kv e4m3, a float32 scale for each 128 of them, d_rope bf16.
// V3.2: 512 + 16 + 128 = 656.
struct KvTokenLayout {
    Index R_kv = 512;
    Index d_rope = 64;

    Index block() const { return block_for(R_kv); }
    Index scales() const { return R_kv / block(); }
    Index scales_at() const { return R_kv; }
    Index rope_at() const { return R_kv + 4 * scales(); }
    Index bytes() const { return rope_at() + 2 * d_rope; }
};

// Bytes of an indexer key page: 64 keys of D_I e4m3, and after all of them 64 float32 scales. (Not 64 rows
// of key and scale.) V3.2: 8192 + 256 = 8448.
struct KeyPageLayout {
    Index D_I = 128;

    Index scales_at() const { return page_tokens * D_I; }
    Index bytes() const { return page_tokens * (D_I + 4); }
};

namespace detail {
template <class T>
void put_bytes(std::uint8_t* at, T value) {
    std::memcpy(at, &value, sizeof value);
}
template <class T>
T get_bytes(const std::uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}
}  // namespace detail

// kv: [S, R_kv + d_rope]  -> pages [ceil(S / 64), 64, bytes]; bytes past the last token are 0.
inline Array<std::uint8_t> pack_kv_pages(const Tensor<Deployed>& kv, const KvTokenLayout& layout, Quantizer quantizer,
                                         ScaleFormat format) {
    const Index S = kv.dim(0);
    Array<std::uint8_t> pages({(S + page_tokens - 1) / page_tokens, page_tokens, layout.bytes()}, 0);
    Tensor<Deployed> latent({S, layout.R_kv});
    latent.matrix() = kv.matrix().leftCols(layout.R_kv);
    const Quantized<Deployed> q = quantize(latent, quantizer, format, layout.block());
    for (Index s = 0; s < S; ++s) {
        std::uint8_t* token =
            pages.data() + s * layout.bytes();  // pages are contiguous: slot s is page s / 64, offset s % 64
        for (Index i = 0; i < layout.R_kv; ++i) token[i] = to_e4m3(q.values(s, i)).bits;
        for (Index b = 0; b < layout.scales(); ++b)
            detail::put_bytes(token + layout.scales_at() + 4 * b, q.scale(s, b));
        for (Index i = 0; i < layout.d_rope; ++i)
            detail::put_bytes(token + layout.rope_at() + 2 * i, to_bfloat16(kv(s, layout.R_kv + i)).bits);
    }
    return pages;
}

// The token in global slot page * 64 + offset, as numbers: latent (dequantised, as attention reads it: bf16
// in Deployed) and k_rope. -> R_kv + d_rope numbers
template <class P, class Row>
void read_kv_token(const Array<std::uint8_t>& pages, const KvTokenLayout& layout, Index slot, Row&& kv) {
    using Real = typename P::Real;
    const std::uint8_t* token = pages.data() + slot * layout.bytes();
    for (Index i = 0; i < layout.R_kv; ++i) {
        const float scale = detail::get_bytes<float>(token + layout.scales_at() + 4 * (i / layout.block()));
        kv(i) =
            P::bf16(Real(static_cast<double>(to_float(float8_e4m3{token[i]}))) * Real(static_cast<double>(scale)));
    }
    for (Index i = 0; i < layout.d_rope; ++i)
        kv(layout.R_kv + i) = Real(static_cast<double>(
            to_float(bfloat16{detail::get_bytes<std::uint16_t>(token + layout.rope_at() + 2 * i)})));
}

// k: [S, D_I] e4m3 numbers  k_scale: [S]  -> pages [ceil(S / 64), 64 (D_I + 4)]
inline Array<std::uint8_t> pack_key_pages(const Tensor<Deployed>& k, const Tensor<Deployed>& k_scale) {
    const KeyPageLayout layout{k.dim(1)};
    const Index S = k.dim(0);
    Array<std::uint8_t> pages({(S + page_tokens - 1) / page_tokens, layout.bytes()}, 0);
    for (Index s = 0; s < S; ++s) {
        std::uint8_t* page = &pages(s / page_tokens, 0);
        const Index offset = s % page_tokens;
        for (Index i = 0; i < layout.D_I; ++i) page[offset * layout.D_I + i] = to_e4m3(k(s, i)).bits;
        detail::put_bytes(page + layout.scales_at() + 4 * offset, k_scale[s]);
    }
    return pages;
}

// The key at `offset` of page `page`: D_I numbers into `key`; returns its scale.
template <class P, class Row>
typename P::Real read_key(const Array<std::uint8_t>& pages, const KeyPageLayout& layout, Index page, Index offset,
                          Row&& key) {
    using Real = typename P::Real;
    const std::uint8_t* bytes = pages.data() + page * layout.bytes();
    for (Index i = 0; i < layout.D_I; ++i)
        key(i) = Real(static_cast<double>(to_float(float8_e4m3{bytes[offset * layout.D_I + i]})));
    return Real(static_cast<double>(detail::get_bytes<float>(bytes + layout.scales_at() + 4 * offset)));
}

}  // namespace dsa
