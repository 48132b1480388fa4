"""What the slides claim, and what was found: the table of `docs/predictions.md` and the verdicts in the handbook.

A row comes from one of three places: a law, which holds to rounding or fails (`LAWS`); an experiment's figures in
`results/*.json` (`MEASURED`); or a study that says its own verdict, any `results/predictions/*.json` with "claim",
"slide", "law", "verdict", "says" and "command". `make readme` writes them into the documents.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from drmm.studies import reproduce

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"

CHAPTERS: dict[str, tuple[str, ...]] = {  # which laws a chapter of the handbook has, in the order of the slides
    "nuisances": ("shifts", "kryptonite"),
    "model": ("Law 0", "RMM", "T4", "localisation", "lift"),
    "inference": ("T1", "T2", "T3", "T17", "certificate"),
    "architectures": ("T11", "T12", "T13", "T14", "weight norm", "initialisation", "noise"),
    "dynamic_programming": ("T23", "T5", "T6", "T7", "T21"),
    "learning": ("T8", "T9", "T10"),
    "insights": ("T15", "T19", "accident"),
    "limits": ("T16", "T20", "feedback", "pruning"),
    "few_labels": ("KL", "drawing", "T18", "MNIST"),
}
WORDS = {  # what a verdict is called, in the order of a summary
    "confirmed": "Confirmed",
    "only if": "Conditional",
    "refuted": "Refuted",
    "inconclusive": "Inconclusive",
    "open": "Not measured yet",
}
WAITING: dict[str, tuple[str, str]] = {  # studies by claim and slide, while there is no verdict
    "kryptonite": (
        "Small, thin, occluded, low-contrast and oddly viewed objects are what nets get wrong",
        "Kryptonite categories",
    ),
    "localisation": (
        "Active paths lead to the pixels of the object",
        "Active Paths Encode/Lead to Task-Relevant Pixels",
    ),
    "T6": (
        "Saliency loses the background layer by layer, more than in layers of random weights",
        "New Explanations & Testable Predictions",
    ),
    "T7": (
        "Invariance to the background grows with depth, and selectivity for the object stays",
        "New Explanations & Testable Predictions",
    ),
    "T15": (
        "The image that excites a class most is a sum of renderings, a mixture over nuisances",
        "How are Memories of Objects Stored in a Convnet?",
    ),
    "T18": (
        "The penalty on negative templates brings a trained net to the non-negative model",
        "Application: Semi-supervised Learning",
    ),
    "T19": (
        "A net that was trained to classify keeps information about nuisances",
        "How much information about nuisance variables is there?",
    ),
    "T20": (
        "Switches that are independent of each other are why samples are poor",
        "Key Limitations & Challenges",
    ),
    "T21": (
        "Depth is necessary because the recursion variable is the size of the receptive field",
        "New Explanations & Testable Predictions",
    ),
}


@dataclass(frozen=True)
class Prediction:
    """A claim of the slides and its verdict.

    Attributes:
        law: by what it is known, such as T6.
        claim: in one line.
        slide: title of the slide that makes it.
        verdict: one of `WORDS`.
        says: a sentence with the figures.
        command: what repeats the check.
        file: what to read, from the repository's root.
    """

    law: str
    claim: str
    slide: str
    verdict: str
    says: str
    command: str = ""
    file: str = ""


# --- laws ---


def _law(law: str, file: str, claim: str, slide: str, says: str, verdict: str = "confirmed") -> Prediction:
    path = f"tests/laws/test_{file}.py"
    return Prediction(law, claim, slide, verdict, says, "make test", path)


LAWS = (
    _law(
        "Law 0",
        "law0_dot_product",
        "For given switches inference and rendering are one linear map and its transpose",
        "Deep Rendering Mixture Model (DRMM)",
        "Every rendering passes the dot-product test to rounding; another image's switches fail it.",
    ),
    _law(
        "RMM",
        "rmm_is_one_layer",
        "Max-sum inference in the shallow model is Choose(MaxPool(ReLU(Conv(I))))",
        "Theorem: Inference in RMM yields One Layer of Convnet",
        "Only if loadings come before the ReLU and a class's elements share one position; then it equals "
        "enumeration of all configurations, and torch's own layers. Average pooling, or a position for each "
        "element, fails.",
        "only if",
    ),
    _law(
        "T4",
        "t04_sum_over_paths",
        "A picture is a sum over paths, I_x = Σ_p t_p a_p γ_p, and few of them are active",
        "The Sum-over-Paths Formulation",
        "All paths of small nets, listed one by one, sum to the rendering and to the score; the active ones alone "
        "give the same sum, and all switched on give another.",
    ),
    _law(
        "T2",
        "t02_max_over_switches",
        "The max over which elements are on is a ReLU, and z ≥ 0 comes out of it",
        "Exercise: Solve this optimization",
        "Equal to trying every mask. With z of either sign the second half fails.",
    ),
    _law(
        "T3",
        "t03_traceback_is_the_gradient",
        "The way back along the active paths is the rendering μ_ĉĝ",
        "Implications of the DP Interpretation",
        "It is the gradient of the score, for any signs, and ⟨μ_ĉĝ, x⟩ is the score but for paths that "
        "end in a bias.",
    ),
    _law(
        "T11",
        "t11_dropout",
        "Dropout is EM with features that are missing at random",
        "Missing-at-Random Inference in the DRMM yields DropOut",
        "Only if the expectation is over the prior of the masks: the mean is then the layer without masks and a "
        "ridge, and one mask gives an unbiased gradient. An E-step over the posterior is another thing; dropout "
        "is its variational bound.",
        "only if",
    ),
    _law(
        "T12",
        "t12_batch_norm_is_em",
        "Batch norm is EM under a diagonal pixel covariance",
        "Unifying Neural Network and Probabilistic Perspectives",
        "The posterior is a linear classifier on the normed features. Only if D is the total variance: given "
        "classes the M-step has the one within them, so that the covariance is not this mixture's.",
        "only if",
    ),
    _law(
        "T13",
        "t13_resnet",
        "A ResNet is inference with Λ = 1 + a ⊙ Δ, exponentially many paths of different lengths",
        "Inference in the Pre-Conditioned DRMM yields Deep ResNets",
        "Only if what comes down is non-negative: then the forward pass is the joint maximum over all masks of "
        "all blocks. The paths are no ensemble, they share their switches.",
        "only if",
    ),
    _law(
        "weight norm",
        "weight_normalisation",
        "Weight normalisation is a choice within the model",
        "Deriving/Explaining Other Architectures",
        "It gives the length of a template, which is a gauge, its own coordinate; pictures and logits stay the "
        "same.",
    ),
    _law(
        "initialisation",
        "orthonormal_and_glorot",
        "Orthonormal and Glorot initialisation are templates that keep the energy",
        "Deriving/Explaining Other Architectures",
        "Only if templates do not overlap and nothing is cut off by a gate. Glorot's is the best compromise "
        "between the way up and the way down.",
        "only if",
    ),
    _law(
        "noise",
        "noise_corruption",
        "Noise corruption is a latent noise",
        "Many Species of Convnets… But only a few Key Operations",
        "Only if the target is clean and no corruption flips a switch: then it is a ridge on the templates.",
        "only if",
    ),
    _law(
        "T23",
        "t23_dynamic_programming",
        "A convnet is dynamic programming, as shortest paths are",
        "Connection between Unrolled DP and Deep Convnets",
        "One engine finds Dijkstra's shortest paths, prints the slides' tables, and is the convnet with its "
        "traceback. It is the maximum only if no negative weight scales a choice; the engine names the steps "
        "that do.",
        "only if",
    ),
    _law(
        "T5",
        "t05_only_active_paths_matter",
        "Only the active paths matter for the decision",
        "Implications of the DP Interpretation",
        "Leaving out every inactive path leaves every logit; leaving out as many active ones changes it at least "
        "a hundred times more.",
    ),
    _law(
        "T8",
        "t08_backprop_is_the_g_step",
        "Backprop is the G-step of hard EM",
        "Learning via Backpropagation: A Hard EM Interpretation",
        "The gradient through ReLU and max-pooling equals the one at frozen switches, to rounding; another "
        "image's switches give another.",
    ),
    _law(
        "T9",
        "t09_deep_em",
        "The M-step needs no derivatives: Λ = GLS(I ~ ẑ | ĝ)",
        "Hard EM Interpretation yields New Derivative-Free M-step",
        "Only if read as the regression of the picture, which never lowers the objective. The formula as printed, "
        "a regression of the features, lowers it where levels below are not orthonormal.",
        "only if",
    ),
    _law(
        "accident",
        "lifted_nets",
        "Successful vision architectures are all max-sum networks of a rendering model",
        "Convnets are “accidentally” Neural Nets",
        "Only if a net is made of linear maps, maxima and clips: residual, dense, grouped and shuffled nets by "
        "others lift to the bit. GELU, attention and squeeze-and-excitation have no exact rendering, and came to "
        "succeed.",
        "only if",
    ),
    _law(
        "T16",
        "t16_discriminative_relaxation_is_lossy",
        "The discriminative relaxation is lossy",
        "Key Limitations & Challenges",
        "Three constructions of two models each with the same p(c|I) and another p(I), off by more than a nat.",
    ),
)


# --- measured ---

NEURONS = ("on", "magnitude", "random")


def results(name: str) -> dict[str, Any]:
    """One file of results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def shifts() -> Prediction:
    """Mixtures on digits that move."""
    rows = results("shifted_digits")["components"]["30"]
    own = rows["rendering"]["majority"]["mean"]
    best = max(row["majority"]["mean"] for name, row in rows.items() if not name.startswith("rendering"))
    return Prediction(
        "shifts",
        "To model a nuisance as a latent takes it out of the representation",
        "The Trouble with Nuisances",
        "confirmed" if own > best else "refuted",
        f"On digits that shift, 30 clusters are right for {own:.0f} % of images where the position is a latent, "
        f"and for {best:.0f} % in the best mixture or k-means that has none.",
        "make shifted",
        "docs/learning.md",
    )


def lifted() -> Prediction:
    """Nets by others."""
    rows = results("lift")["rows"]
    low, high = (f(row["inference_to_forward"] for row in rows) for f in (min, max))
    return Prediction(
        "lift",
        "Many species of convnets are made of a few key operations, each with a rendering",
        "Many Species of Convnets… But only a few Key Operations",
        "confirmed",
        f"{len(rows)} ImageNet architectures lift with identical logits; to infer every switch costs {low:.2f} to "
        f"{high:.2f} forward passes.",
        "make lift",
        "docs/architectures.md",
    )


def samples() -> Prediction:
    """Independent switches, independent ones of each class, and borrowed ones."""
    rows = results("samples")["rows"]
    alone, of_class = rows["independent"], rows["independent in each class"]
    borrowed, real = rows["borrowed, 5 neighbours"], rows["test images"]
    known = {name: row["recognised"] for name, row in (("alone", alone), ("class", of_class), ("new", borrowed))}
    return Prediction(
        "T20",
        *WAITING["T20"],
        "only if" if known["class"] > 90 else "confirmed" if known["new"] > 90 > known["alone"] else "refuted",
        f"Another net recognises {known['alone']:.0f} % of samples with independent switches and "
        f"{known['new']:.0f} % with borrowed ones (real digits: {real['recognised']:.0f} %), only if independent "
        f"means that switches do not know the class either: drawn apart for each class, {known['class']:.0f} % "
        f"are recognised. But those are blurred means: their distance from each other is "
        f"{of_class['spread']:.2f}, that of borrowed ones {borrowed['spread']:.2f}, of real digits "
        f"{real['spread']:.2f}.",
        "make samples",
        "tests/laws/test_t20_samples.py",
    )


def certificate() -> Prediction:
    """The demo's three models."""
    models = results("demo")["models"]
    soft, hard = models["soft"], models["hard"]
    return Prediction(
        "certificate",
        "Trained convnets infer the joint MAP",
        "Ans: JMAP Inference of the entire configuration",
        "only if",
        f"Only if negative templates are ruled out: then {hard['certified']:.0f} % of test images are proved, at "
        f"{hard['test_error']} % error, if the usual signed net teaches it, which proves "
        f"{soft['certified']:.0f} %, at {soft['test_error']} % (100 labels).",
        "make demo",
        "tests/laws/test_hard_constraint.py",
    )


def trees() -> Prediction:
    """Exact and greedy trees on MNIST."""
    rows = results("trees")["sets"]["mnist"]["methods"]
    exact, greedy = rows["evolutionary tree, exact"], rows["evolutionary tree, greedy"]
    forest = rows["random forest, 100 trees"]["accuracy"]["mean"]
    return Prediction(
        "T14",
        "Inference in the evolutionary model is a decision tree",
        "Inference in the Evolutionary DRMM yields Decision Trees",
        "only if",
        "Only if children's increments are shared between parents, or with messages that come up from the leaves. "
        f"The tree that goes down greedily finds the best leaf for {exact['agreement']['mean']:.0f} % of MNIST's "
        f"test images, and the digit for {greedy['accuracy']['mean']:.1f} % against "
        f"{exact['accuracy']['mean']:.1f} % (random forest: {forest:.1f} %).",
        "make trees",
        "tests/laws/test_t14_decision_trees.py",
    )


def race() -> Prediction:
    """EM against SGD."""
    runs = [run for run in results("learning")["runs"] if run["kind"] == "race"]

    def best(rule: str) -> float:
        return mean(min(point[2] for point in run["points"]) for run in runs if run["method"] == rule)

    seconds = sorted(run["reached"]["5.0"][1] for run in runs if run["method"] == "em")
    slow = sorted(run["reached"]["5.0"][1] for run in runs if run["method"] == "sgd")
    return Prediction(
        "T10",
        "EM without derivatives is a way to train convnets",
        "Hard EM Interpretation yields New Derivative-Free M-step",
        "only if",
        f"Only if 5 % error will do: EM is there after {seconds[len(seconds) // 2]:.0f} s, SGD after "
        f"{slow[len(slow) // 2]:.0f} s. But EM ends at {best('em'):.1f} % (no M-step makes that better), SGD at "
        f"{best('sgd'):.1f} % and EG at {best('eg'):.1f} %.",
        "make learning",
        "docs/learning.md",
    )


def feedback() -> Prediction:
    """Accuracy before and after four iterations."""
    kinds = [row for data in results("feedback")["figures"].values() for row in data.values()]
    damages = [row for kind in kinds for row in kind["damages"].values()]

    def gain(name: str) -> float:
        return mean(row[name]["4"]["accuracy"] - row["bottom_up"] for row in damages)

    better = gain("traceback, compete") > 0
    return Prediction(
        "feedback",
        "Top-down feedback alleviates the limitations of convnets",
        "Summary of Theory",
        "confirmed" if better else "refuted",
        f"Over {len(damages)} cases of clean, damaged and attacked pictures the traceback changes accuracy by "
        f"{gain('traceback, compete'):+.1f} points, a pull to the reconstruction by {gain('pull'):+.1f}, and a "
        f"pull to the picture's own blur, the control, by {gain('control: blur'):+.1f}.",
        "make feedback",
        "docs/architectures.md",
    )


def pruning() -> Prediction:
    """Neurons by P(on) beside others."""
    found = [rows["after two more epochs"] for rows in results("pruning")["neurons"].values()]
    row = {name: results("pruning")["neurons"]["0.3"]["after two more epochs"][name]["mean"] for name in NEURONS}

    def wins(other: str) -> int:
        return sum(rows[f"on - {other}"]["mean"] + rows[f"on - {other}"]["sd"] < 0 for rows in found)

    return Prediction(
        "pruning",
        "Synapses and neurons that are seldom on can be pruned",
        "Summary of Theory",
        "confirmed" if wins("random") > len(found) / 2 else "refuted",
        f"With 30 % of the neurons kept and two more epochs the error is {row['on']:.1f} % by P(on), "
        f"{row['magnitude']:.1f} % by magnitude and {row['random']:.1f} % by chance. P(on) beats magnitude by "
        f"more than the spread over seeds at {wins('magnitude')} of {len(found)} sizes, and chance at "
        f"{wins('random')}. What is never on can go without any change (law).",
        "make pruning",
        "tests/laws/test_pruning_dead_units.py",
    )


def kl_sign() -> Prediction:
    """The printed sign beside the other."""
    printed, demo = results("kl_printed"), results("demo")
    return Prediction(
        "KL",
        "Minimising 𝓛_KL = Σ q log(q/p) as printed helps to learn from few labels",
        "Application: Semi-supervised Learning for Visual Recognition",
        "refuted" if printed["test_error"] > demo["models"]["supervised"]["test_error"] else "inconclusive",
        f"It pushes posteriors to uniform: {printed['test_error']} % test error, against "
        f"{demo['models']['soft']['test_error']} % with the opposite sign, which the authors' code has, and "
        f"{demo['models']['supervised']['test_error']} % without unlabelled images.",
        printed["command"],
        "results/kl_printed.json",
    )


def mnist() -> Prediction:
    """The benchmark's row with 100 labels."""
    found = {
        (row.labels, row.method): row for row in reproduce.rows(RESULTS / "reproduce") if row.dataset == "mnist"
    }
    best, bare, full = found[100, "best"], found[100, "kl"], found[50_000, "supervised"]
    others = [
        f"{found[labels, 'best'].said} % with {labels:,} ({len(found[labels, 'best'].errors)} draws)"
        for labels in (50, 1000)
    ]
    return Prediction(
        "MNIST",
        "0.57 % test error on MNIST with 100 labels",
        "Experiments on MNIST: State-of-the-Art",
        "confirmed" if mean(best.errors) <= 0.57 else "inconclusive",
        f"{best.said} % with the best recipe found here ({len(best.errors)} label draws, "
        f"{best.minutes:.0f} minutes each on one of two busy cores), {bare.said} % with the KL alone "
        f"({len(bare.errors)} draws, {bare.minutes:.0f} minutes), both without rendering. The best recipe has "
        f"{' and '.join(others)}; the slides 0.91 and 0.60. With 50,000 labels the same net has {full.said} % "
        f"({len(full.errors)} draws, {full.minutes:.0f} minutes). The slides give no error bars; the gap is open, "
        "and nothing here says that it cannot be closed.",
        "drmm reproduce mnist --labels 100",
        "results/reproduce/table.md",
    )


def drawing() -> Prediction:
    """Whether the generative part lowers the test error, on the same label draws and for as many epochs."""
    pairs = [
        pair
        for pair in reproduce.comparisons(reproduce.rows(RESULTS / "reproduce"))
        if (pair.dataset, pair.method, pair.against) == ("mnist", "rc+kl+nn", "kl")
    ]
    bounds = [pair.interval for pair in pairs]
    helps, harms = [high < 0 for _, high in bounds], [low > 0 for low, _ in bounds]
    verdict = (
        "confirmed" if all(helps) else "only if" if any(helps) else "refuted" if any(harms) else "inconclusive"
    )
    rows = [
        f"{mean(pair.differences):+.2f} points at {pair.labels:,} labels [{low:+.2f}, {high:+.2f}]"
        for pair, (low, high) in zip(pairs, bounds, strict=True)
    ]
    return Prediction(
        "drawing",
        "With reconstruction and the penalty on negative templates, unlabelled images teach more",
        "Experiments on MNIST: State-of-the-Art",
        verdict,
        "MNIST, test error with RC + KL + NN less that of the KL alone, on the same label draws and for as many "
        f"epochs, mean [95 % interval]: {', '.join(rows)}. Drawing takes nearly twice the time.",
        "drmm reproduce mnist --labels 100 --method kl --method rc+kl+nn",
        "results/reproduce/table.md",
    )


MEASURED: tuple[Callable[[], Prediction], ...] = (
    shifts,
    lifted,
    samples,
    certificate,
    trees,
    race,
    feedback,
    pruning,
    kl_sign,
    drawing,
    mnist,
)


# --- studies, and all together ---


def studies() -> Iterator[Prediction]:
    """What results/predictions/ says."""
    for path in sorted((RESULTS / "predictions").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        fields = {name: found[name] for name in ("law", "claim", "slide", "verdict", "says", "command")}
        if fields["verdict"] not in WORDS:
            raise SystemExit(f"{path}: verdict must be one of {', '.join(WORDS)}, got {fields['verdict']}")
        number = re.fullmatch(r"T(\d+)", fields["law"])
        law = sorted((ROOT / "tests/laws").glob(f"test_t{int(number[1]):02}_*.py")) if number else []
        yield Prediction(**fields, file=(law or [path])[0].relative_to(ROOT).as_posix())


def predictions() -> dict[str, list[Prediction]]:
    """Every claim by chapter; what no chapter knows comes last, under "others"."""
    rows = [*LAWS, *(make() for make in MEASURED), *studies()]
    known = {row.law.casefold() for row in rows}
    rows += [Prediction(law, *said, "open", "") for law, said in WAITING.items() if law.casefold() not in known]
    found = {
        chapter: [row for law in laws for row in rows if row.law.casefold() == law.casefold()]
        for chapter, laws in CHAPTERS.items()
    }
    placed = {row.law for chapter in found.values() for row in chapter}
    return {**found, "others": [row for row in rows if row.law not in placed]}


def table(document: str) -> str:
    """All claims with their verdicts, as Markdown."""
    chapters = predictions()
    every = [row for rows in chapters.values() for row in rows]
    counts = {word: sum(row.verdict == word for row in every) for word in WORDS}
    summary = " · ".join(f"{WORDS[word].lower()}: {count}" for word, count in counts.items() if count)
    lines = [f"{len(every)} claims: {summary}.", "", '<div class="verdicts" markdown>']
    for chapter, rows in chapters.items():
        if rows:
            heading = chapter.replace("_", " ").capitalize()
            lines += [
                "",
                f"### {heading}",
                "",
                "| claim | verdict | what was found |",
                "|---|---|---|",
            ]
            lines += [_row(row, document) for row in rows]
    return "\n".join([*lines, "", "</div>"])


def quote(law: str, document: str) -> str:
    """The verdicts on a law, as a quotation."""
    rows = [row for rows in predictions().values() for row in rows if row.law.casefold() == law.casefold()]
    if not rows:
        raise SystemExit(f"{document}: there is no prediction {law}")
    return "\n>\n".join(f"> **{WORDS[row.verdict]}.** {row.says} {_check(row, document)}".rstrip() for row in rows)


def quoted(document: str, text: str) -> str:
    """A document with the table, and every verdict between its markers `<!-- verdict: T6 -->`, made anew."""
    text = re.sub(
        r"(<!-- predictions -->\n).*(<!-- /predictions -->)",
        lambda match: f"{match[1]}\n{table(document)}\n\n{match[2]}",
        text,
        flags=re.DOTALL,
    )
    return re.sub(
        r"(<!-- verdict: ([^>]+?) -->\n).*?(<!-- /verdict -->)",
        lambda match: f"{match[1]}\n{quote(match[2], document)}\n\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def _row(row: Prediction, document: str) -> str:
    verdict = f'<b class="{row.verdict.replace(" ", "-")}">{WORDS[row.verdict]}</b>'
    cells = (f"{row.claim} (“{row.slide}”)", verdict, f"{row.says} {_check(row, document)}".strip())
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _check(row: Prediction, document: str) -> str:
    """What to read, and the command."""
    link = ""
    if row.file:
        target = os.path.relpath(ROOT / row.file, (ROOT / document).parent)
        kind = {"tests": "law", "docs": "guide", "results": "figures"}[row.file.split("/")[0]]
        link = f"[{row.law if kind == 'law' and row.law[1:].isdigit() else kind}]({target})"
    return " · ".join(part for part in (link, f"`{row.command}`" if row.command else "") if part)
