"""One way to ask: what composites can do, how a refusal reads, and that nobody outside asks for the class."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import invprob
from invprob import priors
from invprob.errors import CapabilityError
from invprob.priors.capabilities import WORDS, AbstractPrior, HasStrength, leaves_of
from tests.cases import PRIORS, denoiser, fresh
from tests.test_structure import subclasses

ROOT = Path(invprob.__file__).parent
ROOMS = ("priors", "recipes")  # which may know the classes of priors


def asked_classes(tree: ast.AST) -> list[ast.expr]:
    """What `isinstance` and `issubclass` are asked for, and the classes of patterns."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    found = [call.args[1] for call in calls if call.func.id in ("isinstance", "issubclass") and len(call.args) == 2]
    return found + [node.cls for node in ast.walk(tree) if isinstance(node, ast.MatchClass)]


def named(expression: ast.expr) -> list[ast.expr]:
    """The names in ``A``, ``module.A``, ``A | B`` and ``(A, B)``."""
    if isinstance(expression, ast.BinOp):
        return named(expression.left) + named(expression.right)
    return [e for part in expression.elts for e in named(part)] if isinstance(expression, ast.Tuple) else [expression]


def classes_of_priors(source: str, module: ModuleType) -> list[str]:
    """The classes of priors, capabilities among them, that a module asks for; `AbstractPrior` itself is free."""
    known = {cls.__name__ for cls in subclasses(AbstractPrior)}
    wrong = []
    for expression in (name for asked in asked_classes(ast.parse(source)) for name in named(asked)):
        text = ast.unparse(expression)
        try:
            found = eval(text, vars(module))  # a name of this very module
        except (NameError, AttributeError):  # of a function's own
            found = None
            if text.rpartition(".")[2] in known:
                wrong.append(text)
        members = list(found) if isinstance(found, tuple) else getattr(found, "__args__", (found,))
        wrong += [
            text for c in members if isinstance(c, type) and issubclass(c, AbstractPrior) and c is not AbstractPrior
        ]
    return wrong


def test_nobody_outside_asks_for_the_class_of_a_prior():
    looked = 0
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in ROOMS or path.name == "__main__.py":
            continue
        module = importlib.import_module(".".join(("invprob", *parts)).removesuffix(".__init__"))
        wrong = classes_of_priors(path.read_text(), module)
        assert not wrong, (
            f"{'/'.join(parts)} asks for {', '.join(wrong)}: ask prior.find(HasX) or require(prior, HasX, by)"
        )
        looked += 1
    assert looked > 50


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("isinstance(x, priors.Laplace)", ["priors.Laplace"]),
        ("isinstance(x, int | priors.Product)", ["priors.Product"]),
        ("isinstance(x, (int, HasStrength))", ["HasStrength"]),
        ("isinstance(x, LogNormal)", ["LogNormal"]),
        ("match x:\n    case priors.Positive():\n        pass", ["priors.Positive"]),
        ("isinstance(x, AbstractPrior | int) and isinstance(x, Path)", []),
    ],
)
def test_the_walk_notices(line, wrong):
    module = ModuleType("asking")
    vars(module).update(priors=priors, HasStrength=HasStrength, AbstractPrior=AbstractPrior, Path=Path)
    assert classes_of_priors(line, module) == wrong


@pytest.mark.parametrize("name", PRIORS)
def test_a_capability_that_is_found_is_one(name):
    prior = PRIORS[name][1]()
    for capability in WORDS:
        found = prior.find(capability)
        assert found is None or (isinstance(found, capability) and found.structure.matches(prior.structure)), capability
        assert (capability.__name__ in priors.capabilities(prior)) is (found is not None)


def test_a_product_can_do_what_its_parts_can():
    field, sky = PRIORS["GaussianField"][1](), priors.wide_gaussian(fresh(), 3.0)
    sparse = priors.TotalVariation(field.shape, 1.0)
    both = {name: set(priors.capabilities(priors.Product({"image": p, "sky": sky}))) for name, p in (
        ("field", field), ("log-normal", priors.LogNormal(field)), ("sparse", sparse), ("learned", denoiser()),
        ("blurred", denoiser().at(0.3)),
    )}  # fmt: skip
    assert both["field"] == {
        "HasScore", "HasLogProb", "HasPrecision", "HasTerms", "HasTransform", "HasWhitening", "HasSample", "HasParts",
    }  # fmt: skip
    assert both["log-normal"] == both["field"] - {"HasPrecision", "HasTerms"}
    assert both["sparse"] == {"HasScore", "HasLogProb", "HasTerms", "HasStrength", "HasParts"}
    assert both["learned"] == {"HasSample", "HasParts"} and both["blurred"] == {"HasScore", "HasParts"}


def test_a_product_has_the_score_of_its_parts_where_one_has_no_density():
    blurred, sky = denoiser().at(0.3), priors.wide_gaussian(fresh(), 3.0)
    x = {"image": fresh(*blurred.structure.shape), "sky": fresh()}
    score = priors.require(priors.Product({"image": blurred, "sky": sky}), priors.HasScore, "tests").score(x)
    np.testing.assert_array_equal(score["image"], blurred.score(x["image"]))
    np.testing.assert_array_equal(score["sky"], sky.score(x["sky"]))


def test_white_noise_of_a_product_is_that_of_its_parts():
    field = PRIORS["GaussianField"][1]()
    product = priors.Product({"image": priors.LogNormal(field), "sky": [priors.wide_gaussian(fresh(), 3.0)]})
    found = priors.require(product, priors.HasWhitening, "tests")
    x = product.sample(jax.random.key(0))
    back = found.transform(found.whitened(x))
    np.testing.assert_allclose(back["image"], x["image"], rtol=1e-6)
    np.testing.assert_allclose(back["sky"][0], x["sky"][0], rtol=1e-9)


def test_the_strength_of_a_product_is_that_of_its_sparse_parts():
    tv, laplace, sky = priors.TotalVariation((4, 5), 2.0), priors.Laplace(0.5, (3,)), priors.wide_gaussian(1.0, 2.0)
    found = priors.require(priors.Product({"a": tv, "b": (laplace, sky)}), HasStrength, "tests")
    x = {"a": fresh(4, 5), "b": (fresh(3), fresh())}
    assert found.rank == 19 + 3
    assert float(found.cost(x)) == pytest.approx(float(tv.cost(x["a"]) + laplace.cost(x["b"][0])))
    one, two, three = leaves_of(priors.require(found.rescaled(jnp.asarray(3.0)), priors.HasParts, "tests").parts)
    assert float(one.strength) == 6.0 and float(two.scale) == pytest.approx(0.5 / 3) and three is sky
    assert priors.Product({"a": tv, "b": priors.Positive(laplace)}).find(HasStrength) is None
    assert priors.Product({"a": sky}).find(HasStrength) is None


def test_a_refusal_says_what_is_needed_what_there_is_and_what_lacks_it():
    with pytest.raises(
        CapabilityError, match=r"draws need a prior that can be drawn from \(HasSample\); Positive offe"
    ):
        priors.require(priors.Positive(priors.Laplace(1.0, (3,))), priors.HasSample, "draws")
    mixed = priors.Product({"a": priors.Laplace(1.0, (3,)), "b": priors.TotalVariation((3, 3), 1.0)})
    with pytest.raises(TypeError, match=r"Product offers HasScore, .* \(TotalVariation in it has not\)"):
        priors.require(mixed, priors.HasSample, "draws")


def test_a_capability_of_ones_own():
    """A third party's sampler may need what nobody here thought of."""

    class HasMedian(AbstractPrior):
        def median(self):
            raise NotImplementedError

    assert priors.Laplace(1.0, (3,)).find(HasMedian) is None
    assert priors.Product({"a": priors.Laplace(1.0, (3,))}).find(HasMedian) is None
    with pytest.raises(CapabilityError, match="medians need a prior with the capability HasMedian"):
        priors.require(priors.Laplace(1.0, (3,)), HasMedian, "medians")


def test_a_product_of_images_is_positive_part_by_part():
    tv, points = priors.TotalVariation((4, 5), 2.0), priors.Laplace(0.5, (4, 5))
    found = priors.positive(priors.Product({"diffuse": tv, "points": points}), -0.2)
    one, two = leaves_of(priors.require(found, priors.HasParts, "tests").parts)
    assert float(one.floor) == float(two.floor) == -0.1 and one.prior is tv and two.prior is points
    assert float(priors.positive(tv).floor) == 0
    with pytest.raises(CapabilityError, match="positive images need"):
        priors.positive(denoiser())
