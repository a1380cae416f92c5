"""The rules that hold for every class: in the list of cases, and abstract or final."""

import importlib
import inspect
import pkgutil

import equinox as eqx
import pytest

import invprob
from tests.cases import COVERAGE

SKIPPED = ("cli", "pipeline", "io", "plot")


def subclasses(base):
    """All subclasses, however deep."""
    found = set()
    for cls in base.__subclasses__():
        found |= {cls} | subclasses(cls)
    return found


@pytest.mark.parametrize("room", sorted(COVERAGE))
def test_every_final_public_class_has_a_case(room):
    module, base, cases = COVERAGE[room]
    public = {getattr(module, name) for name in module.__all__}
    final = {c for c in public if inspect.isclass(c) and issubclass(c, base) and not inspect.isabstract(c)}
    missing = {c.__name__ for c in final} - {cls.__name__ for cls, _ in cases.values()}
    assert final and not missing


@pytest.mark.parametrize("room", sorted(COVERAGE))
def test_each_case_is_what_it_says(room):
    for name, (cls, make) in COVERAGE[room][2].items():
        assert type(make()) is cls, name


def test_each_module_class_is_abstract_or_final():
    for info in pkgutil.walk_packages(invprob.__path__, "invprob."):
        if not info.name.removeprefix("invprob.").startswith(SKIPPED):
            importlib.import_module(info.name)
    ours = {c for c in subclasses(eqx.Module) if c.__module__.startswith("invprob.")}
    assert len(ours) > 30
    for cls in ours:
        if not inspect.isabstract(cls) and not eqx_abstract(cls):
            heirs = [c.__name__ for c in subclasses(cls) if c in ours]
            assert not heirs, f"{cls.__name__} is concrete and has the subclasses {heirs}"


def eqx_abstract(cls):
    """Whether attributes that a subclass has to give are left."""
    return bool(getattr(cls, "__abstractvars__", ()) or getattr(cls, "__abstractclassvars__", ()))
