"""The range of a field (`palimpsest.train.ranges`) in the help of its flag, behind the default."""

from dataclasses import is_dataclass, replace
from typing import Annotated

from tyro.conf import arg
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from palimpsest.train.ranges import Bound, ranges

READ = "its fields are being read"


def with_ranges(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A dataclass as tyro reads it by its own rules, with a word about the bounds of its fields."""
    if READ in info.markers or not is_dataclass(info.type):
        return None
    spec = ConstructorRegistry.get_struct_spec(replace(info, markers=(*info.markers, READ)))
    bounds = {name: allowed.bounds for name, allowed in ranges(info.type).items()}
    return replace(spec, fields=tuple(_shown(field, bounds.get(field.name, ())) for field in spec.fields))


def _shown(field: StructFieldSpec, bounds: tuple[Bound, ...]) -> StructFieldSpec:
    if not bounds:
        return field
    words = " and ".join(map(str, bounds))
    return replace(
        field, type=Annotated[field.type, arg(help_behavior_hint=lambda default: f"(default: {default}; {words})")]
    )
