"""Certificates between 0 and 100 %, and robust labels for free: `make certificates`.

Is what a net infers the joint MAP of its own model, and can it be proved? On random nets that could be enumerated
and on nets that learned the 1,297 digits of scikit-learn, for some test images: the two-message bound, lines
(`branch_and_bound` with nothing split), and branching at a budget. And how many labels are proved against every
change within a radius, by plain intervals and by lines, beside how many withstand an attack (projected gradient),
which is what could be proved at most; of hard nets beside signed ones.

Rules, fixed before the run. Signed nets are proved by branching: by more than a point of images more than by two
messages, conditional where it is so of some nets only. Trained signed nets infer the joint MAP: unless for more
than a point of images a better configuration was found. Labels of hard nets are proved: by more than a point more
than those of signed ones, in the mean over the radii. Radii and budgets were chosen on nets of other digits.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean, median

import torch
from torch import Tensor
from torch.nn import functional as F

from drmm import DRMM, as_images, branch_and_bound, robust_margin
from drmm.data import Dataset, load
from drmm.learning.metrics import error_percent
from drmm.model.deep import Latents
from drmm.model.presets import Constraint, conv_small, dense
from drmm.progress import track
from drmm.rendering.base import constant
from drmm.studies.predictions import MARGINS, Interval, interval, judge, together
from drmm.testing import random_net
from scripts.study import Results, kept, spread, study

Make = Callable[[Constraint], DRMM]
SHAPE = (1, 8, 8)
NETS: dict[str, tuple[Make, int, int]] = {  # by name: how it is made, images, and nodes to split for each
    "2 levels of 16 units": (lambda constraint: dense(10, SHAPE, width=16, constraint=constraint), 5, 1000),
    "2 levels of 32 units": (lambda constraint: dense(10, SHAPE, width=32, constraint=constraint), 2, 1000),
    "4 convolutions": (lambda constraint: conv_small(10, SHAPE, width=4, constraint=constraint), 2, 200),
}
RANDOM, RANDOM_NETS = "random, 3 levels", 6
ROBUST = ("2 levels of 16 units", "4 convolutions")
RADII = (("linf", 0.005), ("linf", 0.02), ("l2", 0.05), ("l2", 0.2))
EPOCHS, BATCH, RATE = 20, 50, 5e-3
ATTACKED, STEPS = 50, 30
SEEDS = 10
METHODS = ("messages", "lines", "branching")

Rows = dict[str, dict[str, list[float]]]


def learn(make: Make, constraint: Constraint, data: Dataset, seed: int) -> DRMM:
    """A net that learned all labels by cross-entropy, in double precision."""
    torch.manual_seed(seed)
    model, x, y = make(constraint), as_images(data.x_train), torch.from_numpy(data.y_train)
    steps = EPOCHS * len(x) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    return model.eval().double()


def proofs(model: DRMM, x: Tensor, budget: int) -> dict[str, list[float]]:
    """By image: whether each method proves it, its bound over the best score, and seconds; what is better."""
    found: dict[str, tuple[Latents, float]] = {}
    for method, find in (
        ("messages", lambda: model.infer(x, certify=True)),
        ("lines", lambda: branch_and_bound(model, x, budget=0)),
        ("branching", lambda: branch_and_bound(model, x, budget=budget)),
    ):
        start = time.perf_counter()
        found[method] = find(), (time.perf_counter() - start) / len(x)
    own, best = found["messages"][0], found["branching"][0]
    rows = {
        "beaten": 100.0 * (best.score - own.score > 1e-6 * (1 + own.score.abs())),
        "best": best.score / own.score,
        "same class": 100.0 * (best.label == own.label),
    }
    for method, (latents, seconds) in found.items():
        rows[f"{method}: proved"] = 100.0 * latents.certified()
        rows[f"{method}: bound"] = latents.upper_bound / best.score
        rows[f"{method}: seconds"] = torch.full_like(best.score, seconds)
    return {name: values.tolist() for name, values in rows.items()}


def summary(images: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """Of several groups of images: medians of ratios and seconds, means of shares."""
    joined = {name: [value for one in images for value in one[name]] for name in images[0]}
    ratios = {"best", *(f"{method}: {what}" for method in METHODS for what in ("bound", "seconds"))}
    return {name: round((median if name in ratios else mean)(values), 4) for name, values in joined.items()}


def robust(model: DRMM, x: Tensor, y: Tensor) -> dict[str, float]:
    """Shares of images, in %, whose label is right and proved, or withstands the attack, at each radius."""
    shares = {}
    switches = model.infer(x).switches
    for norm, radius in RADII:
        proved = robust_margin(model, x, y, radius, norm) > 0
        shares[f"{norm} {radius:g}: lines"] = proved
        shares[f"{norm} {radius:g}: attacked"] = withstands(model, x, y, radius, norm)
        if norm == "linf":
            with torch.no_grad():
                box, _ = model.levels.relaxed(x - radius, x + radius, switches)
            z = model.templates.weight[:, None] - model.templates.weight[y]
            bias = model.templates.bias[:, None] - model.templates.bias[y]
            worst = torch.stack([constant(one, box) for one in z]) + bias
            others = torch.arange(model.n_classes)[:, None] != y
            shares[f"{norm} {radius:g}: intervals"] = worst.where(others, -torch.inf).amax(0) < 0
    return {name: round(100 * float(hits.double().mean()), 2) for name, hits in shares.items()}


def withstands(model: DRMM, x: Tensor, y: Tensor, radius: float, norm: str) -> Tensor:
    """Whether the label is right at every picture of a projected gradient attack, bool (N,)."""
    generator = torch.Generator().manual_seed(0)
    holds = model(x).argmax(1) == y
    change = within(radius * torch.randn(x.shape, generator=generator, dtype=x.dtype), radius, norm)
    for _ in range(STEPS):
        change.requires_grad_()
        logits = model(x + change)
        own, other = logits.gather(1, y[:, None])[:, 0], logits.scatter(1, y[:, None], -torch.inf).amax(1)
        holds &= (other < own).detach()
        slope = torch.autograd.grad((other - own).sum(), change)[0]
        step = slope.sign() if norm == "linf" else F.normalize(slope.flatten(1)).reshape(slope.shape)
        change = within(change.detach() + radius / 8 * step, radius, norm)
    return holds


def within(change: Tensor, radius: float, norm: str) -> Tensor:
    """The nearest change in the ball."""
    if norm == "linf":
        return change.clamp(-radius, radius)
    size = change.flatten(1).norm(dim=1)[:, None, None, None]
    return change * (radius / size.clamp(min=1e-12)).clamp(max=1)


def measured_random(seed: int) -> dict[str, float]:
    """Random nets, every weight of either sign."""
    images = []
    for number in range(RANDOM_NETS):
        generator = torch.Generator().manual_seed(RANDOM_NETS * seed + number)
        model = random_net(generator, signed=(True, True, True, True)).double()
        x = torch.randn(3, *model.image_shape, generator=generator).double()
        images.append(proofs(model, x, 1000))
    return summary(images)


def measured(seed: int) -> Results:
    """All nets of one seed."""
    data = load("digits")
    x, y = as_images(data.x_test).double(), torch.from_numpy(data.y_test)
    certificates: dict[str, dict[str, float]] = {RANDOM: measured_random(seed)}
    robustness: dict[str, dict[str, float]] = {}
    for kind, (make, images, budget) in NETS.items():
        for constraint in ("soft", "hard"):
            model = learn(make, constraint, data, seed)
            name = f"{kind}, {'hard' if constraint == 'hard' else 'signed'}"
            error = {"test error": round(error_percent(model, x, y), 4)}
            some = x[seed * images : (seed + 1) * images]
            certificates[name] = error | summary([proofs(model, some, budget)])
            if kind in ROBUST:
                robustness[name] = robust(model, x[:ATTACKED], y[:ATTACKED])
    return {"certificates": certificates, "robustness": robustness}


def run(asked: Namespace) -> Results:
    """Learn and measure, a file for each seed."""
    seeds = track(list(range(asked.seeds)), "seeds")
    runs = [kept(asked.out / f"certificates/{seed}.json", partial(measured, seed)) for seed in seeds]
    settings = {"epochs": EPOCHS, "attacked": ATTACKED, "steps": STEPS}
    joined: dict[str, Rows] = {
        part: {
            net: {name: [one[part][net][name] for one in runs] for name in row}
            for net, row in runs[0][part].items()
        }
        for part in ("certificates", "robustness")
    }
    return {"settings": settings, **joined}


def table(results: Results) -> str:
    """Both tables as Markdown."""
    seeds = results["seeds"]
    columns = f"bound ÷ best: {' | '.join(METHODS)} | proved (%): {' | '.join(METHODS)} | seconds, of a busy core"
    rows = [
        f"| {seeds} seeds | test error (%) | beaten (%) | best ÷ own score | {columns} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in results["certificates"].items():
        middle = {key: mean(values) for key, values in row.items()}
        error = spread(row["test error"]) if "test error" in row else "–"
        bounds = " | ".join(f"{middle[f'{method}: bound']:,.2f}" for method in METHODS)
        shares = " | ".join(f"{middle[f'{method}: proved']:.0f}" for method in METHODS)
        rows.append(
            f"| {name} | {error} | {middle['beaten']:.0f} | {middle['best']:,.1f} | {bounds} | {shares} "
            f"| {middle['branching: seconds']:.1f} |"
        )
    return "\n".join([*rows, "", robust_table(results)])


def robust_table(results: Results) -> str:
    """What is proved against any change, and what withstands an attack."""
    names = [f"{norm} {radius:g}" for norm, radius in RADII]
    shown = [name.replace("linf", "L∞").replace("l2", "L2") for name in names]
    rows = [
        f"| right within the radius (%) | {' | '.join(shown)} |",
        f"|---|{'--:|' * len(names)}",
    ]
    for net, row in results["robustness"].items():
        for method, words in (
            ("intervals", "proved by intervals"),
            ("lines", "proved by lines"),
            ("attacked", "withstands the attack"),
        ):
            cells = [f"{name}: {method}" for name in names]
            shares = [spread(row[cell]) if cell in row else "–" for cell in cells]
            rows.append(f"| {net}: {words} | {' | '.join(shares)} |")
    return "\n".join(rows)


def gains(results: Results) -> dict[str, Interval]:
    """By how many points of images branching proves more of each kind of signed nets than two messages do."""
    rows = {name: row for name, row in results["certificates"].items() if not name.endswith("hard")}
    pairs = {
        name: zip(row["branching: proved"], row["messages: proved"], strict=True) for name, row in rows.items()
    }
    return {name: interval([more - less for more, less in pair]) for name, pair in pairs.items()}


def run_proved(asked: Namespace) -> Results:
    """Whether branching proves signed nets."""
    results = run(asked)
    found = gains(results)
    outcomes = {judge(gain, MARGINS["points"]) for gain in found.values()}
    listed = []
    for name, gain in found.items():
        messages, lines, branching = (mean(results["certificates"][name][f"{by}: proved"]) for by in METHODS)
        shares = f"{messages:.0f} % by two messages, {lines:.0f} % by lines, {branching:.0f} % by branching"
        listed.append(f"{name}: {shares} ({gain} points more)")
    verdict = "only if" if len(outcomes) > 1 and "confirmed" in outcomes else together(outcomes)
    condition = "Only if the net is small. " if verdict == "only if" else ""
    return {
        "claim": "Lines that share switches, and branching, prove the joint MAP of signed nets",
        "slide": "Inference in the DRMM yields Deep Convnets",
        "law": "branching",
        "verdict": verdict,
        "says": f"{condition}Images of {asked.seeds} seeds that are proved, of {'; '.join(listed)}.",
    }


def run_inferred(asked: Namespace) -> Results:
    """Whether trained signed nets infer the joint MAP."""
    rows = run(asked)["certificates"]
    signed = {name: row for name, row in rows.items() if name.endswith("signed")}
    beaten = {name: interval(row["beaten"]) for name, row in signed.items()}
    listed = [
        f"{beaten[name]} % ({name}: {mean(row['best']):,.1f} times the score in the median, the same class in "
        f"{mean(row['same class']):.0f} %)"
        for name, row in signed.items()
    ]
    return {
        "claim": "Convnets that were trained without a constraint infer the joint MAP of their own model",
        "slide": "Ans: JMAP Inference of the entire configuration",
        "law": "signed nets",
        "verdict": together(judge(-share, -MARGINS["points"]) for share in beaten.values()),
        "says": f"A better configuration than the bottom-up pass's was found for {'; '.join(listed)} of images.",
    }


def run_labels(asked: Namespace) -> Results:
    """Whether labels of hard nets are proved robust where those of signed ones are not."""
    rows, found, listed = run(asked)["robustness"], {}, []
    for kind in ROBUST:
        hard, signed = (
            [mean(row[f"{norm} {radius:g}: lines"][seed] for norm, radius in RADII) for seed in range(asked.seeds)]
            for row in (rows[f"{kind}, hard"], rows[f"{kind}, signed"])
        )
        found[kind] = interval([one - other for one, other in zip(hard, signed, strict=True)])
        listed.append(f"{kind}: {mean(hard):.0f} % against {mean(signed):.0f} %, {found[kind]} points more")
    return {
        "claim": "Non-negative templates make it possible to prove that a label is robust",
        "slide": "Inference in the DRMM yields Deep Convnets",
        "law": "robust labels",
        "verdict": together(judge(more, MARGINS["points"]) for more in found.values()),
        "says": (
            f"Labels that are right and proved within a radius, mean over {len(RADII)} radii, of hard nets and of "
            f"signed ones: {'; '.join(listed)}."
        ),
    }


if __name__ == "__main__":
    study(run, table, name="certificates", target="certificates", seeds=SEEDS)
    for predict, law in ((run_proved, "branching"), (run_inferred, "signed_nets"), (run_labels, "robust_labels")):
        study(predict, name=f"predictions/{law}", target="certificates", seeds=SEEDS)
