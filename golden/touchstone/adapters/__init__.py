"""How is another system's kernel asked our questions? Through an adapter: one module a peer.

A module holds, for each op that its peer offers,

    OP(call)       -> a plug-in function: it takes our tensors and parameters by name (spec section 11), lays them out
                      as the peer wants them, calls `call` and gives our outputs back by name
    peer_OP()      -> the real peer's callable, taking and giving NumPy arrays, on the GPU within (see _torch.py);
                      refuses in one sentence where the peer is not installed
    plugin_OP      the plug-in function over the real peer, which is imported when it is first called
    conventions    {op: {switch: value}}: the switches of docs/09-conventions.md in which the peer has one fixed answer

`call` has exactly the peer's argument names, shapes and dtypes, so a stand-in in NumPy can take the peer's place.
An adapter repairs nothing: it changes layouts and pads sizes, and its docstring says what. What the peer cannot do
raises NotImplementedError with a sentence. Bfloat16 is ml_dtypes.bfloat16, e4m3 ml_dtypes.float8_e4m3fn.

Bounds hold for the conventions that were run: judge a plug-in function by goldens made with its `conventions`.
"""

from __future__ import annotations

from typing import Callable


def follows(conventions: dict, function: Callable) -> Callable:
    """`function` with the switches that it follows, as its attribute `conventions`."""
    function.conventions = dict(conventions)
    return function


def over_peer(build: Callable, peer: Callable, conventions: dict) -> Callable:
    """The plug-in function build(peer()), made when first called: to look at a module needs no peer."""
    made: list[Callable] = []

    def plugin(**inputs):
        if not made:
            made.append(build(peer()))
        return made[0](**inputs)

    plugin.__doc__ = build.__doc__
    return follows(conventions, plugin)
