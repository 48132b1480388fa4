"""Write the figures of results/*.json between the markers of the README and the docs: `make readme`."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

from verdicts import quoted

from drmm.cli.demo import demo_table
from drmm.studies import reproduce
from drmm.studies.benchmark import table

ROOT = Path(__file__).parents[2]


def learning_tables(results: dict[str, Any]) -> str:
    """The race of the learning rules, clusters, throughput and memory, as Markdown."""
    return "\n\n".join([_race(results), _clusters(results), _throughput(results)])


def _race(results: dict[str, Any]) -> str:
    said = (
        f"{results['images']:,} labelled images of MNIST's training set, error in % on {results['held_out']:,} "
        f"others (mean ± s.d., {results['seeds']} draws); in how many epochs and seconds (one of two busy cores, "
        "median) how many of the draws came down to 5, 2 and 1.5 %:"
    )
    rows = [
        said,
        "",
        "| learning | first error | best error | to 5 % | to 2 % | to 1.5 % |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    names = {"sgd": "SGD, 𝓛_H alone", "eg": "EG, 𝓛_H + 𝓛_RC", "em": "EM, no derivatives"}
    for rule, name in names.items():
        runs = [run for run in results["runs"] if run["kind"] == "race" and run["method"] == rule]
        first = reproduce.spread([run["points"][0][2] for run in runs])
        best = reproduce.spread([min(point[2] for point in run["points"]) for run in runs])
        cells = [_reached([run["reached"][target] for run in runs]) for target in ("5.0", "2.0", "1.5")]
        rows.append(f"| {name} | {first} | {best} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _reached(found: list[list[float] | None]) -> str:
    there = [point for point in found if point is not None]
    if not there:
        return "never"
    epochs, seconds = (sorted(values)[len(there) // 2] for values in zip(*there, strict=True))
    return f"{epochs:.0f} ep., {seconds:.0f} s ({len(there)}/{len(found)})"


def _clusters(results: dict[str, Any]) -> str:
    said = (
        f"Clusters of {results['clustered']:,} images without labels, accuracy in % on MNIST's test set (a "
        "cluster is named by most of its training images, or there is one cluster to a digit):"
    )
    rows = [
        said,
        "",
        "| method | clusters | by majority | one to one | seconds |",
        "|---|--:|--:|--:|--:|",
    ]
    names = {
        "k-means": "k-means on pixels",
        "gaussian": "GaussianMixture, diagonal",
        "rendering": "RenderingMixture",
        "deep em": "DRMM, EM",
        "deep sgd": "DRMM, SGD",
    }
    runs = [run for run in results["runs"] if run["kind"] == "clusters"]
    for method in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == method]
        name, _, number = method.rpartition(" ")
        seconds = sorted(run["seconds"] for run in mine)[len(mine) // 2]
        one = reproduce.spread([run["one_to_one"] for run in mine]) if int(number) == 10 else "–"
        majority = reproduce.spread([run["accuracy"] for run in mine])
        rows.append(f"| {names[name]} | {number} | {majority} | {one} | {seconds:.0f} |")
    return "\n".join(rows)


def _throughput(results: dict[str, Any]) -> str:
    rate = {name: row["images_per_second"] for name, row in results["throughput"].items()}
    small, large = (results["memory"][n]["added"] for n in ("5000", "60000"))
    return (
        f"Images a second on one core, the net of the MNIST rows, interleaved: E-step {rate['e_step']:.0f}, "
        f"M-step {rate['m_step']:.0f}, an epoch of G-steps {rate['g_step']:.0f}. An M-step takes as long as "
        f"{rate['g_step'] / rate['m_step']:.1f} epochs of G-steps.\n\n"
        f"Memory that an E-step and an M-step add to the process: {small:.0f} MiB for 5,000 images, "
        f"{large:.0f} MiB for 60,000.\n\n"
        "Images whose freshly proposed switches were taken, in iteration "
        f"{', '.join(f'{i}: {100 * share:.0f} %' for i, share in enumerate(results['accepted'], 1))}."
    )


def shifted_table(results: dict[str, Any]) -> str:
    """Mixtures of digits that shift, as Markdown."""
    rows = [
        "| method | clusters | by majority | one to one | nats per image | seconds |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for number, methods in results["components"].items():
        for name, found in methods.items():
            cells = [
                f"{found[key]['mean']:.1f} ± {found[key]['sd']:.1f}" if key in found else "–"
                for key in ("majority", "one_to_one", "nats", "seconds")
            ]
            rows.append(f"| {name} | {number} | {' | '.join(cells)} |")
    return "\n".join(rows)


def lift_table(results: dict[str, Any]) -> str:
    """Seconds, ratios and bytes of lifted nets, as Markdown."""
    titles = {
        "net": "net",
        "lift_seconds": "seconds to lift",
        "forward_ms": "forward (ms)",
        "inference_to_forward": "inference ÷ forward",
        "reconstruction_to_forward": "reconstruction ÷ forward",
        "switch_bytes_per_unit": "bytes per unit",
    }
    rows = [f"| {' | '.join(titles.values())} |", f"|---|{'--:|' * (len(titles) - 1)}"]
    for row in results["rows"]:
        cells = [
            row[key] if key == "net" else f"{row[key]:.0f}" if key == "forward_ms" else f"{row[key]:.2f}"
            for key in titles
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def trees_table(results: dict[str, Any]) -> str:
    """Trees and forests on each data set, as Markdown."""
    rows = [
        "| data | method | accuracy (%) | leaves | pickled (kB) | µs per prediction | seconds to fit |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for data, found in results["sets"].items():
        for name, row in found["methods"].items():
            accuracy = f"{row['accuracy']['mean']:.2f} ± {row['accuracy']['sd']:.2f}"
            rows.append(
                f"| {data} | {name} | {accuracy} | {row['leaves']:,} | {row['bytes'] / 1000:,.0f} | "
                f"{row['microseconds']:.1f} | {row['fit_seconds']:.1f} |"
            )
    return "\n".join(rows)


def pruning_table(results: dict[str, Any]) -> str:
    """Test error of pruned nets by criterion, as Markdown."""
    names = {"on": "P(on)", "contribution": "P(on) × strength", "magnitude": "magnitude", "random": "random"}
    rows = [f"| keep | {' | '.join(names.values())} |", "|--:|--:|--:|--:|--:|"]
    for keep, found in results["neurons"].items():
        before, after = found["mean and regression"], found["after two more epochs"]
        cells = [f"{before[name]['mean']:.1f} → {after[name]['mean']:.1f}" for name in names]
        rows.append(f"| {keep} | {' | '.join(cells)} |")
    before = results["test_error_before"]
    return "\n".join(
        [*rows, "", f"Before pruning: {before['mean']:.1f} ± {before['sd']:.1f}, {results['seeds']} seeds."]
    )


def missing_table(results: dict[str, Any]) -> str:
    """Accuracy on digits with gaps by how they are filled in, as Markdown."""
    names = {
        "zeros": "black",
        "mean": "mean image",
        "rendering": "rendering alone",
        "neighbours": "neighbours alone",
        "observed": "`infer(x, observed=)`",
    }
    rows = [f"| model | missing | {' | '.join(names.values())} |", f"|---|---|{'--:|' * len(names)}"]
    for model, found in results["test"]["models"].items():
        for gaps, row in found.items():
            cells = [f"{row[name]['accuracy']:.1f}" for name in names]
            rows.append(f"| {model} | {gaps} | {' | '.join(cells)} |")
    return "\n".join(rows)


def feedback_table(results: dict[str, Any]) -> str:
    """Accuracy before and after four iterations of feedback, as Markdown."""
    names = {
        "traceback, compete": "traceback, 3 classes compete",
        "traceback, own class": "traceback, own class",
        "pull": "pull to reconstruction",
        "control: blur": "control: pull to blur",
    }
    rows = [f"| net | pictures | bottom-up | {' | '.join(names.values())} |", "|---|---|--:|--:|--:|--:|--:|"]
    for data, kinds in results["figures"].items():
        for kind, found in kinds.items():
            for damage, row in found["damages"].items():
                cells = [f"{row[name]['4']['accuracy']:.1f}" for name in names]
                rows.append(f"| {data}, {kind} | {damage} | {row['bottom_up']:.1f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def frontier_table(results: dict[str, Any]) -> str:
    """Test error against the certificate's gap, as Markdown."""
    rows = [
        f"| 4,000 digits, 100 labels, {results['seeds']} draws | test error (%) | gap, in scores | proved (%) |",
        "|---|--:|--:|--:|",
    ]
    for name, found in results["models"].items():
        gap, proved = median(found["gap"]), mean(found["certified"])
        rows.append(f"| {name} | {reproduce.spread(found['test_error'])} | {gap:,.0f} | {proved:.0f} |")
    return "\n".join(rows)


def peers_table(results: dict[str, Any]) -> str:
    """Others' rules of few-label learning beside the model's, the least error first, as Markdown."""
    labels = results["labels"]
    errors = {
        name: dict(zip(found["seeds"], found["test_error"], strict=True))
        for name, found in results["methods"].items()
    }
    own = errors["kl"]
    rows = [
        f"| MNIST, {labels} labels, {len(own)} draws | test error (%) | less that of kl, points | minutes |",
        "|---|--:|--:|--:|",
    ]
    for name, found in errors.items():
        minutes = median(results["methods"][name]["seconds"]) / 60
        draws = "" if len(found) == len(own) else f" ({len(found)} draws)"
        rows.append(
            f"| {name} | {reproduce.spread([*found.values()])}{draws} | {_apart(found, own)} | {minutes:.1f} |"
        )
    return "\n".join(rows)


def ablations_table(results: dict[str, Any]) -> str:
    """The recipe with one thing changed at a time, the best first, as Markdown."""
    errors: dict[str, dict[int, float]] = {}
    for run in results["runs"]:
        errors.setdefault(run["variant"], {})[run["seed"]] = run["error"]
    base = errors[results["base"]]
    rows = [
        f"| {results['labels']} labels, one epoch, {len(base)} draws | validation error (%) | change, points |",
        "|---|--:|--:|",
    ]
    for name, found in sorted(errors.items(), key=lambda item: mean(item[1].values())):
        rows.append(f"| {name} | {reproduce.spread([*found.values()])} | {_apart(found, base)} |")
    return "\n".join(rows)


def _apart(errors: dict[int, float], others: dict[int, float]) -> str:
    """Errors by label draw less others' of the same draws, with an interval where there are two or more."""
    shared = sorted(errors.keys() & others.keys())
    if errors is others or not shared:
        return "–"
    points = tuple(errors[seed] - others[seed] for seed in shared)
    return f"{points[0]:+.2f}" if len(points) == 1 else reproduce.Comparison("", 0, "", "", points).said


DOCUMENTS: dict[str, dict[str, Callable[[Any], str]]] = {
    "README.md": {"demo": demo_table, "reproduce": reproduce.markdown, "bench": table},
    "docs/architectures.md": {
        "lift": lift_table,
        "missing_pixels": missing_table,
        "trees": trees_table,
        "pruning": pruning_table,
        "feedback": feedback_table,
    },
    "docs/handbook/few_labels.md": {"ablations": ablations_table, "peers": peers_table},
    "docs/handbook/inference.md": {"frontier": frontier_table},
    "docs/learning.md": {"shifted_digits": shifted_table, "learning": learning_tables},
}


def documents() -> list[str]:
    """README and every page of the docs."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return ["README.md", *(page.relative_to(ROOT).as_posix() for page in pages)]


def filled(document: str, text: str) -> str:
    """A document with every marked table and verdict made anew."""
    for name, make in DOCUMENTS.get(document, {}).items():
        made = make(_results(ROOT / "results" / name)).strip()
        before, rest = text.split(f"<!-- {name} -->")
        after = rest.split(f"<!-- /{name} -->")[1]
        text = f"{before}<!-- {name} -->\n{made}\n<!-- /{name} -->{after}"
    return quoted(document, text)


def _results(place: Path) -> Any:
    """What a JSON holds; without one, what was run into a folder."""
    path = place.with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else reproduce.rows(place)


if __name__ == "__main__":
    for document in documents():
        path = ROOT / document
        path.write_text(filled(document, path.read_text(encoding="utf-8")), encoding="utf-8")
