"""Errors: what they carry, and that it reaches another process."""

from __future__ import annotations

import pickle

import pytest

from latbench.errors import (
    BudgetError,
    DeviceBusyError,
    InvalidFileError,
    LatbenchError,
    MissingExtraError,
    UnknownNameError,
)


def _every_class(parent: type[LatbenchError] = LatbenchError) -> list[type[LatbenchError]]:
    found = [parent]
    for child in parent.__subclasses__():
        found += _every_class(child)
    return found


ERRORS = [
    UnknownNameError("device profile", "cpu-ort", ["cpu-onnxruntime"], path="$.name"),
    MissingExtraError("openvino", "openvino"),
    BudgetError("out of reach", nearest_ms=1.5, nearest_macs_m=2.5, nearest_params_m=3.5),
    InvalidFileError("no table", path="$[0]", choices=["a", "b"]),
    DeviceBusyError("busy"),
    *(
        kind("some words")
        for kind in _every_class()
        if kind.__module__ == "latbench.errors"
        and kind not in (UnknownNameError, MissingExtraError)
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_whole_in_another_process(error: LatbenchError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    assert str(arrived) == str(error)
    assert arrived.as_dict() == error.as_dict()


@pytest.mark.parametrize("name", ["cpu", "cpu-onnx", "cpu-onnxruntim", "cpu-onxruntime"])
def test_the_suggestion_is_the_first_name_that_goes_on_like_the_wrong_one(name: str) -> None:
    error = UnknownNameError("device", name, ["cpu-onnxruntime", "cpu-openvino", "cpu-pytorch"])
    assert "did you mean 'cpu-onnxruntime'?" in error.message
