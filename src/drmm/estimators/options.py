"""Options of estimators, checked as scikit-learn checks its own, in this library's errors."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)

from drmm.errors import InputError

__all__ = ["NOT_NEGATIVE", "POSITIVE", "SHARE", "StrOptions", "check_options", "whole"]

NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
POSITIVE = Interval(Real, 0, None, closed="neither")
SHARE = Interval(Real, 0, 1, closed="left")


def whole(least: int) -> Interval:
    """Whole numbers from `least` on."""
    return Interval(Integral, least, None, closed="left")


def check_options(constraints: Mapping[str, list[object]], options: Mapping[str, Any], caller: str) -> None:
    """Refuse an option that is none of what it may be.

    Args:
        constraints: for each name what it may be, in scikit-learn's words.
        options: values by name.
        caller: whose options they are.

    Raises:
        InputError: naming the option, what it may be, and what it is.
    """
    try:
        validate_parameter_constraints(dict(constraints), dict(options), caller_name=caller)
    except InvalidParameterError as error:
        raise InputError(" ".join(str(error).split())) from None
