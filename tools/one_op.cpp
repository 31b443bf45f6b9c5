// ONE_OP OP IN_DIR OUT_DIR: a reference to be changed (tools/variants.py), as a plug-in that shows every stage.
#include <iostream>

#include "reference/ops/golden.h"

int main(int argc, char** argv) {
    try {
        dsa::require(argc == 4, "one_op is called as: one_op OP IN_DIR OUT_DIR; it got ", argc - 1, " arguments");
        const dsa::Op* op = dsa::find_op(argv[1]);
        if (op == nullptr) return 77;
        const dsa::OpInputs in(argv[2]);
        dsa::write_outputs(*op, in, in.tier(), argv[3], true);
    } catch (const std::exception& refusal) {
        std::cerr << refusal.what() << '\n';
        return 2;
    }
    return 0;
}
