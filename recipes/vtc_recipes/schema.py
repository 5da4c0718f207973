"""Types of values in recipes and grids; `vtc.plugins.sections` defines the sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from vtc.interfaces.renamed import warn_renamed
from vtc.plugins.sections import Row, Section, SectionError, parse

__all__ = ["RecipeError", "Row", "Section", "parse"]

RecipeError = SectionError
T = TypeVar("T")


def _check_part(kind: str, optional: bool = False) -> AfterValidator:
    def check(value: Any) -> Any:
        from vtc.plugins.registry import build_budget, build_part

        if optional and value is None:
            return None
        try:
            if kind == "budget":
                build_budget(value)
            else:
                build_part(kind, value)
        except (TypeError, ImportError) as error:
            raise ValueError(str(error)) from error
        return value

    return AfterValidator(check)


def _rename_connector(value: Any) -> Any:
    if value != "trained":
        return value
    warn_renamed("connector: trained", "connector: encoder_patches")
    return "encoder_patches"


Items = Annotated[tuple[T, ...], Field(strict=False)]
"""A tuple that is written as a list."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Selector = Annotated[Any, _check_part("selector")]
"""A name or a mapping, as accepted by `vtc.wrap`; the same holds for `Merger`."""
Merger = Annotated[Any, _check_part("merger")]
OptionalSelector = Annotated[Any, _check_part("selector", optional=True)]
OptionalMerger = Annotated[Any, _check_part("merger", optional=True)]
OptionalBudget = Annotated[Any, _check_part("budget", optional=True)]
"""A number of tokens, ``"auto"``, a name or a mapping, as accepted by `vtc.wrap`."""
Connector = Annotated[
    Literal["stock", "separate", "encoder_patches"], BeforeValidator(_rename_connector)
]
