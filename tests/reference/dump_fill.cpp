// Shows the C++ telling of the fills to tests/golden/test_fill.py. One request a line on stdin:
//   {"name": ..., "seed": ..., "tensor": {...}}                        the whole tensor
//   {"name": ..., "seed": ..., "tensor": {...}, "elements": [i, ...]}  single elements, as float32
// One answer each on stdout: a line {"bytes": n} and n bytes, or a line {"refused": "sentence"}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reference/cases/fill.h"
#include "reference/refusal.h"

using nlohmann::json;

int main() {
    std::string line;
    while (std::getline(std::cin, line)) {
        try {
            const json request = json::parse(line);
            const dsa::Fill fill = dsa::Fill::from_json(request.at("tensor"), request.at("name"),
                                                        request.at("seed").get<std::uint64_t>());
            std::string bytes;
            if (request.contains("elements")) {
                for (const json& i : request["elements"]) {
                    const float x = fill.element(i.get<dsa::Index>());
                    bytes.append(reinterpret_cast<const char*>(&x), sizeof x);
                }
            } else {
                const dsa::StoredTensor tensor = fill.materialise();
                bytes.assign(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
            }
            std::cout << json{{"bytes", bytes.size()}}.dump() << '\n' << bytes << std::flush;
        } catch (const dsa::Refusal& refusal) {
            std::cout << json{{"refused", refusal.what()}}.dump() << '\n' << std::flush;
        }
    }
    return 0;
}
