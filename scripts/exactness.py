"""How exact is max-sum inference? Small nets against trying every configuration: `make exactness`.

Random nets of 2 or 3 levels that are small enough to enumerate (`drmm.testing.random_net`), as in laws T1 and T17:
the class and the score of one bottom-up pass, of the sign traceback, and the two-message bound. And what the exact
maximum is worth: on pictures that the nets drew themselves, how often it is the class that drew them.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache

import torch

from drmm import DRMM, sign_traceback
from drmm.model.deep import Latents
from drmm.progress import track
from drmm.studies.predictions import Interval, interval
from drmm.testing import Enumeration, enumerate_configurations, random_net
from scripts.study import Results, study

Rows = dict[str, Results]

NETS: dict[str, tuple[bool, ...]] = {  # which dictionaries have both signs, pixels first; class templates last
    "all non-negative": (False, False, False),
    "signed pixels": (True, False, False),
    "signed pixels, 3 levels": (True, False, False, False),
    "signed upper dictionary": (True, True, False),
    "all signed": (True, True, True),
}
NONNEGATIVE = tuple(NETS)[:3]
ROUNDING = 1e-9
DRAWN, NOISE = 100, 0.1  # pictures of each net, and the standard deviation of their pixels


@torch.no_grad()
def measure(signed: tuple[bool, ...], nets: int, name: str) -> Results:
    """Shares of images, in %, over many nets with three images each."""
    rows = []
    for seed in track(range(nets), f"{name} ({nets} nets)"):
        generator = torch.Generator().manual_seed(seed)
        model = random_net(generator, signed=signed)
        x = torch.randn(3, *model.image_shape, generator=generator)
        truth = enumerate_configurations(model, x)
        gaussian = enumerate_configurations(model, x, "gaussian")
        once = model.infer(x)
        rows.append(
            {
                **agreement(once, truth),
                **{f"traceback {key}": value for key, value in agreement(sign_traceback(model, x), truth).items()},
                "gaussian class": once.label == gaussian.label,
                "bound valid": bounds(model, x, truth),
            }
        )
    return {
        "nets": nets,
        **{key: round(100 * float(torch.cat([row[key] for row in rows]).double().mean()), 1) for key in rows[0]},
    }


def agreement(latents: Latents, truth: Enumeration) -> dict[str, torch.Tensor]:
    """Whether the class, the whole configuration and the certificate are there, bool (N,)."""
    best = truth.score.amax(1)
    return {
        "class": latents.label == truth.label,
        "optimum": best - latents.score <= ROUNDING * (1 + best.abs()),
        "certified": latents.certified(ROUNDING),
    }


def bounds(model: DRMM, x: torch.Tensor, truth: Enumeration) -> torch.Tensor:
    """Whether no class's bound lies below its best score, (N,)."""
    return (model.upper_bound(x) - truth.score >= -ROUNDING * (1 + truth.score.abs())).all(1)


@torch.no_grad()
def recognised(seed: int, signed: Sequence[bool]) -> dict[str, float]:
    """Pictures that a net draws from its own model: how often each rule finds the class that drew them."""
    generator = torch.Generator().manual_seed(seed)
    model = random_net(generator, signed=signed, bias=False)
    latents = model.sample_latents(DRAWN, generator=generator)
    picture = model.picture(latents)
    x = picture + NOISE * torch.randn(picture.shape, generator=generator)
    label = model.infer(x).label
    longest = latents.label[picture.flatten(1).norm(dim=1).argmax()]
    found = {
        "max-sum": label == latents.label,
        "gaussian": enumerate_configurations(model, x, "gaussian").label == latents.label,
        "longest": label == longest,
    }
    return {name: float(hits.double().mean()) for name, hits in found.items()}


@cache
def drawn(nets: int) -> dict[str, dict[str, Interval]]:
    """The same for many non-negative nets of each kind, over nets."""
    found = {}
    for kind in NONNEGATIVE:
        runs = [recognised(seed, NETS[kind]) for seed in track(range(nets), f"{kind}, own pictures")]
        found[kind] = {name: interval([run[name] for run in runs]) for name in runs[0]}
    return found


def table(results: Results) -> str:
    """What the exact maximum is worth, as a sentence."""

    def span(name: str) -> str:
        shares = [100 * one[name]["mean"] for one in results["pictures"].values()]
        half = max(100 * (one[name]["high"] - one[name]["mean"]) for one in results["pictures"].values())
        return f"{min(shares):.0f} to {max(shares):.0f} %, ± {half:.1f} at most"

    return (
        "Exact is not right: of pictures that small non-negative nets draw themselves, max-sum names the class "
        f"that drew them in {span('max-sum')} (chance: {100 / 3:.0f} %), and the Gaussian maximum does in "
        f"{span('gaussian')}. What wins is the class that can draw the longest picture, in {span('longest')}."
    )


def exact(figures: Rows, worth: str) -> Results:
    """T1 as a prediction with its verdict."""
    theirs = [figures[name] for name in NONNEGATIVE]
    holds = all(row["class"] == row["optimum"] == 100 for row in theirs)
    upper, every = figures["signed upper dictionary"]["class"], figures["all signed"]["class"]
    gaussian = figures["signed pixels"]["gaussian class"]
    return {
        "claim": "Joint MAP inference of the class and all switches is exact, and its algorithm is the convnet",
        "slide": "Inference in the DRMM yields Deep Convnets",
        "law": "T1",
        "verdict": ("only if" if max(upper, every) < 100 else "confirmed") if holds else "refuted",
        "says": (
            f"Class and score are those of enumeration in {min(row['optimum'] for row in theirs):g} % of images "
            f"on {sum(row['nets'] for row in theirs):,} random nets, only if every template above the pixels is "
            f"non-negative. With a signed upper dictionary the class is right in {upper:g} %, with everything "
            f"signed in {every:g} % (chance: {100 / 3:.0f} %). It is exact for ⟨μ_cg, I⟩: the Gaussian "
            f"likelihood, whose ½‖μ_cg‖² the slides drop, has the same best class in {gaussian:g} %. {worth}"
        ),
        "kind": "algebra",
    }


def traced(figures: Rows) -> Results:
    """T17 as a prediction with its verdict."""
    row, nonnegative = figures["all signed"], [figures[name] for name in NONNEGATIVE]
    alone = all(one["traceback optimum"] == one["optimum"] == 100 for one in nonnegative)
    return {
        "claim": "Signs that are traced down put signed nets right; without signs no top-down pass is needed",
        "slide": "New DRMM Learning Algorithm with Top-Down Inference",
        "law": "T17",
        "verdict": "only if" if alone and row["traceback optimum"] < 100 else "confirmed" if alone else "refuted",
        "says": (
            "Exact only if nothing is signed, and then one bottom-up pass has found it already. In nets with all "
            f"weights signed the traceback finds the best class in {row['traceback class']:g} % of images where "
            f"one pass finds it in {row['class']:g} %, the best configuration in {row['traceback optimum']:g} % "
            f"against {row['optimum']:g} %, and proves it in {row['traceback certified']:g} %. The bound was "
            f"below the best score in {100 - min(one['bound valid'] for one in figures.values()):g} %."
        ),
        "kind": "algebra",
    }


@cache
def measured(nets: int) -> Rows:
    """All kinds of nets."""
    return {name: measure(signed, nets, name) for name, signed in NETS.items()}


def run_drawn(asked: Namespace) -> Results:
    """What the exact maximum is worth."""
    found = drawn(asked.nets)
    shares = {kind: {name: asdict(one) for name, one in shares.items()} for kind, shares in found.items()}
    return {"nets": asked.nets, "pictures": shares}


def run_exact(asked: Namespace) -> Results:
    """Measure, and judge T1."""
    figures = measured(asked.nets)
    return {**exact(figures, table(run_drawn(asked))), "figures": figures}


def run_traced(asked: Namespace) -> Results:
    """Measure, and judge T17."""
    figures = measured(asked.nets)
    return {**traced(figures), "figures": figures}


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    options = {"--nets": {"type": int, "default": 400, "help": "of each kind, by as many seeds"}}
    study(run_drawn, table, name="exactness", target="exactness", seeds=1, options=options)
    study(run_exact, name="predictions/T1", target="exactness", seeds=1, options=options)
    study(run_traced, name="predictions/T17", target="exactness", seeds=1, options=options)
