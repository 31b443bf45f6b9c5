"""The process that calls a user's Python function or C library. Reads one request a line, writes one answer a line.

Not for people: `touchstone check` starts it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np

from . import Refusal, arrays, contract, require
from .memory import DeviceLost
from .telling.inputs import Inputs


def load_function(target: str):
    """MODULE:FUNCTION or FILE.py:FUNCTION. A plain MODULE offers op_NAME or NAME for each op."""
    module_name, _, function = target.partition(":")
    try:
        if module_name.endswith(".py"):
            require(Path(module_name).is_file(), f"the file {module_name} does not exist: check the path")
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise Refusal(f"{module_name} cannot be imported ({error}): check its name and PYTHONPATH") from None
    if not function:
        return lambda op: getattr(module, op, None)
    require(hasattr(module, function), f"{module_name} has no function named {function}")
    return lambda op: getattr(module, function)


def arguments_for(function, op: str, description: dict, tensors: dict) -> dict:
    """What a function is called with: of tensors, parameters, `conventions`, `case` and `op`, those that it names.

    A function with **kwargs gets all tensors and parameters. A parameter that it needs and the case lacks is left to
    Python's own sentence.
    """
    everything = tensors | description["parameters"]
    extra = {"conventions": description["conventions"], "case": description, "op": op, "parameters": description["parameters"]}
    accepted = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in accepted):
        return everything | {p.name: extra[p.name] for p in accepted if p.name in extra and p.name not in everything}
    available = extra | everything
    unused = [name for name in tensors if name not in {p.name for p in accepted}]
    if unused:
        raise Refusal(f"the function must take the tensor {unused[0]} of this case by name (or **kwargs)")
    return {p.name: available[p.name] for p in accepted if p.name in available}


def named_outputs(result, op: str) -> dict[str, np.ndarray]:
    """One array, a tuple in the contract's order, or a dict by name -> arrays by name."""
    names = [t.name for t in contract.OPS[op].outputs]
    if isinstance(result, dict):
        return {name: arrays.taken(value, name) for name, value in result.items()}
    if not isinstance(result, (tuple, list)):
        result = (result,)
    require(len(result) == len(names), f"{op} has the outputs {', '.join(names)}; the function returned {len(result)}")
    return {name: arrays.taken(value, name) for name, value in zip(names, result)}


def call_python(function, op: str, description: dict, inputs: Inputs, library: str, device: str) -> dict[str, np.ndarray]:
    """Calls a user's function with copies of the inputs; refuses it if it changes them."""
    stored = {name: inputs.stored(name) for name in inputs.tensors}
    tensors = {name: arrays.given(a, inputs.dtype(name), library, device) for name, a in stored.items()}
    outputs = named_outputs(function(**arguments_for(function, op, description, dict(tensors))), op)
    for name, tensor in tensors.items():
        now = arrays.taken(tensor, name)
        require(now.tobytes() == stored[name].tobytes(), f"the function changed its input {name}: inputs are read-only")
    return outputs


class Python:
    """A function, or a module with one function an op."""

    def __init__(self, target: str, library: str, device: str):
        self.function_of, self.library, self.device = load_function(target), library, device

    def call(self, op: str, description: dict, inputs: Inputs) -> dict[str, np.ndarray]:
        function = self.function_of(op)
        if function is None:
            raise NotImplementedError(f"there is no function named {op}")
        return call_python(function, op, description, inputs, self.library, self.device)


def raised(error: Exception) -> str:
    """What a user's function raised, and where, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def answer(plugin, request: dict) -> dict:
    """One call; whatever the user's code raises becomes a sentence."""
    in_dir, out_dir = Path(request["in"]), Path(request["out"])
    description = json.loads((in_dir / "case.json").read_text(encoding="utf-8"))
    try:
        outputs = plugin.call(request["op"], description, Inputs.of_case(description, in_dir))
        for name, array in outputs.items():
            np.save(out_dir / f"{name}.npy", array, allow_pickle=False)
    except NotImplementedError as reason:
        return {"state": "not implemented", "sentence": str(reason)}
    except DeviceLost as lost:
        return {"state": "failed", "sentence": str(lost), "ends": True}
    except Refusal as refusal:
        return {"state": "failed", "sentence": str(refusal)}
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return {"state": "failed", "sentence": raised(error)}
    return {"state": "ran", "sentence": ""}


def main() -> None:
    """Serves requests until its input ends. What the user's code prints goes to stderr."""
    kind, target, library, device = sys.argv[1:5]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    failure = ""
    try:
        if kind == "lib":
            from .clib import Library

            plugin = Library(target)
        else:
            plugin = Python(target, library, device)
    except Refusal as refusal:
        failure = str(refusal)
    for line in sys.stdin:
        reply = {"state": "failed", "sentence": failure} if failure else answer(plugin, json.loads(line))
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
        if reply.get("ends"):
            return


if __name__ == "__main__":
    main()
