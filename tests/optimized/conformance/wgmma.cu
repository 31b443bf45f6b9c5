// wgmma: every N, every layout of the operands, registers, signs. docs/20-the-simulator.md.
#include "wgmma.cuh"

namespace dsa::conformance {
namespace {

constexpr Swizzle swizzles[] = {Swizzle::none, Swizzle::bytes_32, Swizzle::bytes_64, Swizzle::bytes_128};
constexpr int place_of_b = 16 << 10;

template <class T, int form, int n>
void add_experiment(const std::string& name, Swizzle of_a, Swizzle of_b, bool a_in_registers = false, bool add = true,
                    int from = 0) {
    experiments().push_back({name, [=] {
                                 const Matrix<T> a(64, 1), b(n, 2);
                                 std::vector<unsigned char> image(image_bytes);
                                 const Operand at_a = (form & a_mn_major) != 0 ? a.put_mn_major(image, 0, of_a)
                                                                               : a.put_k_major(image, 0, of_a, from);
                                 const Operand at_b = (form & b_mn_major) != 0
                                                          ? b.put_mn_major(image, place_of_b, of_b)
                                                          : b.put_k_major(image, place_of_b, of_b, from);
                                 std::vector<std::uint32_t> registers;
                                 if (a_in_registers) registers = a.registers();
                                 return product_of<T, form, n>(image, at_a, at_b, registers, add);
                             }});
}

template <class T, int... n>
void every_n(const std::string& format) {
    (add_experiment<T, plain, n>("wgmma_" + format + "_n" + std::to_string(n), Swizzle::bytes_32, Swizzle::bytes_32),
     ...);
}

[[maybe_unused]] const bool registered = [] {
    every_n<bf16, 8, 16, 32, 64, 96, 128, 192, 256>("bf16");
    every_n<e4m3, 8, 16, 32, 64, 96, 128, 192, 256>("e4m3");
    for (const Swizzle s : swizzles) {
        const std::string span = std::to_string(span_of(s));
        add_experiment<bf16, plain, 64>("wgmma_bf16_k_major_" + span, s, s);
        add_experiment<e4m3, plain, 64>("wgmma_e4m3_k_major_" + span, s, s);
        add_experiment<bf16, a_mn_major, 64>("wgmma_bf16_a_mn_major_" + span, s, Swizzle::bytes_128);
        add_experiment<bf16, b_mn_major, 64>("wgmma_bf16_b_mn_major_" + span, Swizzle::bytes_128, s);
        add_experiment<bf16, a_mn_major | b_mn_major, 128>("wgmma_bf16_mn_major_" + span, s, s);
    }
    add_experiment<bf16, plain, 64>("wgmma_bf16_second_32_of_128", Swizzle::bytes_128, Swizzle::bytes_128, false,
                                    true, 32);
    add_experiment<bf16, plain, 64>("wgmma_bf16_last_32_of_128", Swizzle::bytes_128, Swizzle::bytes_128, false, true,
                                    96);
    add_experiment<bf16, plain, 64>("wgmma_bf16_not_added", Swizzle::bytes_128, Swizzle::bytes_128, false, false);
    add_experiment<bf16, plain, 64>("wgmma_bf16_registers", Swizzle::none, Swizzle::bytes_64, true);
    add_experiment<e4m3, plain, 64>("wgmma_e4m3_registers", Swizzle::none, Swizzle::bytes_64, true);
    add_experiment<f16, plain, 64>("wgmma_f16_registers", Swizzle::none, Swizzle::bytes_64, true);
    add_experiment<f16, plain, 8>("wgmma_f16_registers_n8", Swizzle::none, Swizzle::bytes_128, true);
    add_experiment<bf16, b_mn_major, 64>("wgmma_bf16_registers_b_mn_major", Swizzle::none, Swizzle::bytes_64, true);
    add_experiment<bf16, minus_a, 64>("wgmma_bf16_minus_a", Swizzle::bytes_128, Swizzle::bytes_128);
    add_experiment<e4m3, minus_b, 64>("wgmma_e4m3_minus_b", Swizzle::bytes_128, Swizzle::bytes_128);
    return true;
}();

}  // namespace
}  // namespace dsa::conformance
