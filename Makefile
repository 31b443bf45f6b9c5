# The front door. Each line calls the real tool.
.PHONY: golden test thorough device reference bench format tidy clean

golden:            ## build the reference, write and verify the goldens, tell what happened
	tools/golden.sh

test:              ## every test that this machine can run
	tools/test.sh

thorough:          ## sanitizers, fuzzers, other compilers and CPUs: what needs more builds
	tools/thorough.sh

device:            ## on a machine with an H100: check, sanitize and time the CUDA tree, write the receipt
	tools/device.sh

reference:         ## build dsa-reference only
	tools/build.sh

bench:             ## time the goldens and the ops
	tools/bench.sh

format:            ## clang-format every source
	tools/format.sh --fix

tidy:              ## clang-tidy
	tools/tidy.sh

clean:
	rm -rf build build-*
