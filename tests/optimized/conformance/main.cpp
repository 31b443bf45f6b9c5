// conformance DIRECTORY [NAME...]: runs the experiments and writes DIRECTORY/NAME.bin for each. Two such directories,
// from a GPU and from the simulator, are compared with `diff -rq`.
#include <cstdio>
#include <fstream>

#include "experiment.h"

int main(int count, char** words) {
    using namespace dsa::conformance;
    if (count < 2) {
        std::fprintf(stderr, "usage: conformance DIRECTORY [NAME...]; experiments:\n");
        for (const Experiment& e : experiments()) std::fprintf(stderr, "  %s\n", e.name.c_str());
        return 2;
    }
    int failed = 0;
    for (const Experiment& e : experiments()) {
        bool asked = count == 2;
        for (int i = 2; i < count; ++i) asked = asked || e.name == words[i];
        if (!asked) continue;
        try {
            const Bytes bytes = e.run();
            const std::string path = std::string(words[1]) + "/" + e.name + ".bin";
            std::ofstream file(path, std::ios::binary);
            file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
            if (!file.flush()) throw std::runtime_error("cannot write " + path + ": does the directory exist?");
            std::printf("%-40s %zu bytes\n", e.name.c_str(), bytes.size());
        } catch (const std::exception& error) {
            std::fprintf(stderr, "%s: %s\n", e.name.c_str(), error.what());
            ++failed;
        }
    }
    return failed == 0 ? 0 : 1;
}
