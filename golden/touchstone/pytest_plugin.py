"""One pytest test a case. Installed with the package:

    def test_mine(touchstone_case):                      # every small case of every op
        touchstone_case.check(my_kernels)                # a function, or a dict of functions by op

    @pytest.mark.touchstone("sparse_prefill", flag="ties")
    def test_mine(touchstone_case): ...
"""

from __future__ import annotations

import pytest

from . import cases
from .check import Options, WrongKernel, check_all, function_runner
from .mistakes import diagnose


class CaseUnderTest:
    """One case, ready to be asked of a kernel."""

    def __init__(self, case: cases.Case):
        self.case, self.name, self.op = case, case.name, case.op

    def check(self, function, *, arrays: str = "numpy", device: str = "cpu", **options) -> None:
        """Fails the test where the kernel is wrong; skips it where there is none for this op."""
        if isinstance(function, dict):
            if self.op not in function:
                pytest.skip(f"no kernel for {self.op}")
            function = function[self.op]
        settings = Options(**({"private": 0} | options))
        results = check_all([self.case], function_runner(function, arrays, device), settings)
        if results[0].state == "not implemented":
            pytest.skip(results[0].sentence or "not implemented")
        if results[0].state != "right":
            known = diagnose(results)
            raise WrongKernel(f"{self.name}: {results[0].sentence}" + (f"\n{known}" if known else ""))


def pytest_configure(config):
    """Registers the mark."""
    config.addinivalue_line("markers", "touchstone(*ops_or_cases, size, flag): which cases the fixture touchstone_case has")


def pytest_generate_tests(metafunc):
    """One test a case, for tests that ask for the fixture."""
    if "touchstone_case" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("touchstone")
    names, options = (list(mark.args), mark.kwargs) if mark else ([], {})
    chosen = cases.choose(names, options.get("size", "small"), options.get("flag"))
    metafunc.parametrize("touchstone_case", [CaseUnderTest(c) for c in chosen], ids=[c.name for c in chosen])


