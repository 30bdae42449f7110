"""What every method of every family owes its user, whatever it does with a model."""

import dataclasses
import json
from dataclasses import asdict, replace

import pytest

from palimpsest.errors import UserError
from palimpsest.train.ranges import Bound, ranges


def is_frozen_plain_and_documented(method):
    json.dumps(asdict(method))
    for field in dataclasses.fields(method):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, getattr(method, field.name))
        assert any(field.name in (kind.__doc__ or "") for kind in type(method).__mro__), field.name


def refuses_fields_outside_their_range(method):
    for field, allowed in ranges(type(method)).items():
        beyond = ["no such choice"] if allowed.choices else [outside(bound) for bound in allowed.bounds]
        for wrong in beyond:
            with pytest.raises(UserError, match=f"^{field} must be "):
                replace(method, **{field: wrong})


def outside(bound: Bound) -> float:
    return next(value for value in (bound.value, bound.value - 1, bound.value + 1) if not bound.holds(value))
