"""Train a model into a run's folder: select a structure, learn, measure, keep; go on after a stop."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from drmm.data import NAMES, Dataset
from drmm.data.duplicates import alike
from drmm.data.store import forget_pixels, taken
from drmm.errors import InputError, RunError
from drmm.files import expanded, locked
from drmm.learning.class_prior import Shares, estimate_shares
from drmm.learning.metrics import cluster_accuracy, error_percent, name_clusters, predict_logits, recall_percent
from drmm.learning.processes import is_leader
from drmm.learning.recipes import is_recipe, names, read_recipe
from drmm.learning.selection import check_selection, select
from drmm.learning.train import train
from drmm.model.deep import DRMM
from drmm.progress import Outlook
from drmm.runs.assessing import Lesson, assessed
from drmm.runs.classes import kept_shares, told
from drmm.runs.experiment import Experiment, Teacher
from drmm.runs.parts import Parts, fitted_recipe, is_clustering, parts_of, taught_by, teacher_digest, warn_of_leaks
from drmm.runs.run import Run, number, versions
from drmm.runs.stages import BY_LABELS, CHOICE, FOLD, MODEL, TEACHER, is_cross_fitted, lesson_of, stages
from drmm.storage.models import Recipe, start_model
from drmm.trust.assessment import Assessment, assess

__all__ = ["ENDS_FOR_GOOD", "fit_run", "learn", "learn_on"]

ENDS_FOR_GOOD = {"em", "head", "tune"}
"""Kinds of learning that do not start from templates that are there: such a model does not go on learning."""

_FOLDERS = {FOLD: "", BY_LABELS: "labels-", MODEL: "model"}  # where nets that are cross-fitted, and beside, learn


def fit_run(
    experiment: Experiment,
    folder: str | Path,
    *,
    data_dir: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    command: str = "",
    tell: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Train a model as an experiment says, into a folder.

    A run that is finished goes on for more epochs with `resume` and an experiment that has more: a new schedule,
    from the model as it is. Its former results are kept in the new ones, as "earlier".

    Args:
        experiment: what to do; with `resume` the run's own, but for the machine and the number of epochs.
        folder: a new folder, or with `resume` one of the same experiment.
        data_dir: where the data sets' files are.
        resume: go on from where the folder's training was stopped.
        progress: show a progress bar.
        command: the exact command line, kept with the results.
        tell: is told, line by line, what will be learned, of which images, and how long that may take.

    Returns:
        What `results.json` holds: errors in percent, seconds of all sessions, versions. Empty in DDP's further
        processes.

    Raises:
        InputError: if the data cannot be used; nothing has been written then.
        RunError: if the folder exists, does not fit, is being written or cannot be, or the data or the teacher has
            changed.
    """
    # DDP starts the same command again for every further device; only the first process owns the folder.
    folder, leader = Path(folder), is_leader()
    run, whole, data, parts, candidates = _begun(experiment, folder, data_dir, tell, resume=resume)
    done = _epochs_done(run) if resume else None
    if done is not None and done >= whole.training.epochs:
        return run.results
    shares = _shares(experiment, parts, data, tell) if leader else None
    with locked(folder) if leader else nullcontext(), _cleared_after_mistakes(run, keep=resume or not leader):
        is_told = progress and leader
        outlook = Outlook(stages(whole, parts, candidates, done), tell) if is_told else progress
        session = _Session(run, parts, progress=outlook, tell=tell)
        parts = session.taught(whole, candidates[0])
        recipe, model, selection = session.trained(whole, candidates, done)
        model, assessment = session.assessed(whole, recipe, model)
    if not leader:
        return {}
    results = _results(whole, data, parts, model) | {"resumed": resume, "command": command, "selection": selection}
    results |= {"class_shares": kept_shares(shares, data.classes), "cross_fitted": assessment.error()}
    results |= {"seconds": session.seconds(), "versions": versions()}
    if done is not None:
        results["earlier"] = [*run.results.get("earlier", []), _without(run.results, "earlier")]
    run.keep_experiment(whole)
    run.keep_model(model, recipe)
    run.keep_assessment(assessment)
    run.keep_results(results)
    shutil.rmtree(run.folds_folder, ignore_errors=True)
    return results


def _begun(
    experiment: Experiment, folder: Path, data_dir: Path | None, tell: Callable[[str], object], *, resume: bool
) -> tuple[Run, Experiment, Dataset, Parts, tuple[Recipe, ...]]:
    """The run, what it learns, and from what; its folder says so then. Arguments and errors as of `fit_run`."""
    leader = is_leader()
    experiment.model.check()
    if not resume:  # a finished run has the winner's sizes beside what was selected from
        _check_free(experiment)
        if leader:
            Run.check_free(folder)
    run = Run.to_resume(folder) if resume else Run(folder, None)
    with _untouched_after_mistakes(run, keep=resume or not leader):
        data = experiment.load(data_dir, store=run.store)
        if leader:
            tell(data.account())
            warn_of_leaks(data)
        parts = parts_of(experiment, data)
        whole = _whole(experiment, data)
        candidates = _candidates(whole, parts)
        lines = _structure(candidates)
        for line in lines if leader else ():
            tell(line)
        run = _checked(run, whole, data) if resume else Run(folder, whole)
    if leader and not resume:
        run = Run.create(folder, whole)
        run.keep_labels(data, parts.known)
        run.keep_skipped(data)
    return run, whole, data, parts, candidates


def _shares(experiment: Experiment, parts: Parts, data: Dataset, tell: Callable[[str], object]) -> Shares | None:
    """How frequent classes are among the unlabelled images, if that can be estimated; what follows is told."""
    shares = estimate_shares(parts.images, parts.labels, len(data.classes), seed=experiment.training.seed)
    for line in told(shares, parts, data.classes, experiment.objective.prior):
        tell(line)
    return shares


class _Session:
    """One sitting of a run: what it learns, and how long that has taken in all.

    Args:
        run: its folder is written to while learning.
        parts: what it learns from.
        progress: show progress bars; an outlook tells how long all of its stages take.
        tell: is told what it decides.
    """

    def __init__(self, run: Run, parts: Parts, *, progress: bool | Outlook, tell: Callable[[str], object]) -> None:
        self.run, self.parts, self.progress, self.tell = run, parts, progress, tell
        self.before = run.seconds_so_far()
        self.start = time.perf_counter()

    def seconds(self) -> float:
        """Of all sessions."""
        return round(self.before + time.perf_counter() - self.start, 1)

    def taught(self, experiment: Experiment, recipe: Recipe) -> Parts:
        """The labels of the teacher where there is none, if there is one."""
        if experiment.teacher is not None:
            folder = self._teacher(experiment, recipe)
            self.parts = taught_by(folder, recipe, self.parts)
        return self.parts

    def _teacher(self, experiment: Experiment, recipe: Recipe) -> Path:
        """Where the teacher's model is; it is learned first if it is a recipe."""
        source = experiment.teacher.source if experiment.teacher is not None else ""
        folder = self.run.teacher_folder
        if is_recipe(source) and not Run(folder, None).has_model:
            lesson = lesson_of(experiment)
            taught_recipe = replace(recipe, constraint=lesson.model.constraint)
            model = learn(
                lesson, taught_recipe, self.parts, folder=folder, resume=True, progress=self._at(TEACHER)
            )
            Run(folder, lesson).keep_model(model, taught_recipe)
        return folder

    def trained(
        self, experiment: Experiment, candidates: tuple[Recipe, ...], done: int | None
    ) -> tuple[Recipe, DRMM, dict[str, Any] | None]:
        """The recipe, its model, and how the recipe was chosen; of a run that is finished, after more epochs."""
        if done is not None:
            return self.run.recipe, self.further(experiment, done), self.run.results.get("selection")
        recipe, selection = self.select(experiment, candidates)
        return recipe, self.learn(experiment, recipe), selection

    def select(
        self, experiment: Experiment, candidates: tuple[Recipe, ...]
    ) -> tuple[Recipe, dict[str, Any] | None]:
        """The recipe to train, and how it was chosen."""
        if not experiment.select:
            return candidates[0], None
        selection = select(
            candidates,
            lambda recipe, x, y: learn(
                experiment,
                recipe,
                replace(self.parts, images=x, labels=y),
                progress=self._at(CHOICE, candidates.index(recipe)),
            ),
            self.parts.images,
            self.parts.labels,
            criterion=experiment.select.criterion,
            seed=experiment.training.seed,
            folder=self.run.selection_folder,
            progress=bool(self.progress),
        )
        self.run.keep_selection(selection.rows())
        return selection.winner, {"criterion": selection.criterion, "candidates": selection.rows()}

    def learn(self, experiment: Experiment, recipe: Recipe) -> DRMM:
        """Train the model, from its last checkpoint on if there is one."""
        folder = self.run.training_folder()
        return learn(experiment, recipe, self.parts, folder=folder, resume=True, progress=self._at(MODEL))

    def _at(self, purpose: str, number: int = 0) -> bool | Outlook:
        return self.progress.at(purpose, number) if isinstance(self.progress, Outlook) else self.progress

    def further(self, experiment: Experiment, done: int) -> DRMM:
        """Train the run's finished model for the epochs that it lacks."""
        folder = self.run.training_folder(experiment.training.epochs)
        more = experiment.training.epochs - done
        return learn_on(
            self.run.model, experiment, self.parts, more, folder=folder, resume=True, progress=self._at(MODEL)
        )

    def assessed(self, experiment: Experiment, recipe: Recipe, model: DRMM) -> tuple[DRMM, Assessment]:
        """The model to keep, and how far it can be trusted.

        Nothing is cross-fitted where no image has a label, or a teacher has seen them.
        """
        x, y = self.parts.images, self.parts.labels
        if not is_cross_fitted(experiment, self.parts):
            return model, assess(model, x, y, ())
        lesson = Lesson(experiment.training, experiment.objective, experiment.machine, y)
        by = partial(self._by, experiment, recipe)
        return assessed(model, x, lesson, experiment.trust, by, self.tell, same=alike)

    def _by(self, experiment: Experiment, recipe: Recipe, lesson: Lesson) -> DRMM:
        """A model by a lesson, from its last checkpoint on if there is one."""
        if lesson.fold:
            alone = ", from the labels alone" if lesson.purpose == BY_LABELS else ""
            console = Console(stderr=True, quiet=not (self.progress and is_leader()))
            console.print(f"learning without some labels{alone}: {lesson.fold}", highlight=False)
        number = lesson.fold.partition(" ")[0]
        progress = self._at(lesson.purpose, int(number) - 1) if number else bool(self.progress)
        return learn(
            replace(experiment, training=lesson.training, objective=lesson.objective),
            recipe,
            replace(self.parts, labels=lesson.labels, validation=None),
            folder=self.run.folds_folder / f"{_FOLDERS[lesson.purpose]}{number}",
            resume=True,
            progress=progress,
            settle=not lesson.fold,
        )


def learn(experiment: Experiment, recipe: Recipe, parts: Parts, **options: Any) -> DRMM:
    """A fresh model of a recipe, trained as an experiment says.

    Args:
        experiment: resolved.
        recipe: of the model.
        parts: what it learns from.
        options: folder, resume, progress and settle, as of `drmm.learning.train.train`.
    """
    return _train(start_model(recipe, experiment.training.seed), experiment, parts, **options)


def learn_on(model: DRMM, experiment: Experiment, parts: Parts, epochs: int, **options: Any) -> DRMM:
    """A trained model, trained for some more epochs by a schedule of their own; arguments as of `learn`.

    Raises:
        InputError: if its kind of learning ends for good.
    """
    learning = experiment.training.learning
    if learning in ENDS_FOR_GOOD:
        raise InputError(f"a model that was learned by {learning} does not go on learning: train a new one")
    changed = {"epochs": epochs, "min_steps": 0, "initialisation": "default", "patience": None}
    return _train(model, experiment.changed("training", **changed), parts, **options)


def _train(model: DRMM, experiment: Experiment, parts: Parts, **options: Any) -> DRMM:
    return train(
        model,
        parts.images,
        parts.labels,
        objective=experiment.objective,
        config=experiment.training,
        machine=experiment.machine,
        validation=parts.validation,
        **options,
    )


def _whole(experiment: Experiment, data: Dataset) -> Experiment:
    """The experiment with all that its data decides: what `run.json` keeps."""
    objective = experiment.objective.for_pictures(
        data.x_train.shape[1:], labelled=not is_clustering(experiment, data)
    )
    whole = replace(experiment, objective=objective).resolved()
    asked = replace(whole.data, source=_absolute(whole.data.source), digest=data.digest)
    if data.files:  # pictures, of a size that was asked for or chosen
        height, width = data.x_train.shape[2:]
        asked = replace(asked, size=(height, width), labels=_absolute(asked.labels))
    whole = replace(whole, data=asked, model=fitted_recipe(whole, data))
    if whole.teacher is None:
        return whole
    source = whole.teacher.source
    if is_recipe(source):
        read_recipe(source)  # complains now, not after a while
        return whole if source in names() else _taught_from(whole, source, "")
    return _taught_from(whole, source, teacher_digest(expanded(source)))


def _taught_from(experiment: Experiment, source: str, digest: str) -> Experiment:
    """The experiment with where its teacher is, whatever the working directory."""
    where = str(expanded(source).resolve())
    return replace(experiment, teacher=Teacher(where, digest))


def _absolute(name: str) -> str:
    """Where a file or folder is, whatever the working directory; a data set's name, or none, as it is."""
    path = expanded(name)
    return str(path.resolve()) if name and path.exists() and name not in NAMES else name


def _check_free(experiment: Experiment) -> None:
    """Refuse to select what is given."""
    for name in ("preset", "width", "depth"):
        if getattr(experiment.select, name) and getattr(experiment.model, name) != getattr(Recipe(), name):
            raise InputError(f"{name} is both given and selected: leave model.{name} out")


def _candidates(experiment: Experiment, parts: Parts) -> tuple[Recipe, ...]:
    """What to choose from, or the one recipe there is."""
    grid, recipe = experiment.select, experiment.model
    if not grid:
        if grid.criterion is not None:
            raise InputError("a criterion needs something to choose between: set select.width=8,16, say")
        return (recipe,)
    if experiment.machine.devices > 1:
        raise InputError("structures are selected on one device: set machine.devices to 1, or select first")
    candidates = grid.candidates(recipe)
    check_selection(candidates, parts.labels, grid.criterion, experiment.training.seed)
    return candidates


def _structure(candidates: tuple[Recipe, ...]) -> list[str]:
    """Of what will be trained, in a few lines; it can be built."""
    if len(candidates) > 1:
        return [f"{len(candidates)} structures to choose between"]
    [recipe] = candidates
    loaded: list[str] = []
    size = sum(parameter.numel() for parameter in start_model(recipe, 0, tell=loaded.append).parameters())
    channels, height, width = recipe.image_shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    shown = f"the model: {recipe.architecture} for {kind} images of {height}x{width} pixels, {size:,} parameters"
    return [shown, *loaded]


_MAY_DIFFER = {"training.epochs", "data.source", "data.labels", "data.digest", "teacher.source", "teacher.digest"}
_MAY_DIFFER |= {"model.weights"}  # whose digest may not


def _checked(run: Run, experiment: Experiment, data: Dataset) -> Run:
    """The run, if an experiment goes on with it.

    Raises:
        RunError: if it was started with other data, settings or another teacher.
    """
    folder, before = run.folder, run.experiment or experiment
    run.check_data(data)
    taught_by_digest = "" if before.teacher is None else before.teacher.digest
    if taught_by_digest and experiment.teacher is not None and taught_by_digest != experiment.teacher.digest:
        raise RunError(f"the teacher's model is another one than {folder} was started with: put it back")
    before = before.filled_in(experiment)  # version 0.1.0 did not keep that
    changed = [name for name in before.differences(experiment) if not _may_differ(name)]
    if changed:
        raise RunError(f"{folder} was started with another {changed[0]}: resume with the same settings")
    if experiment.training.epochs < before.training.epochs:
        raise RunError(f"{folder} was started for {before.training.epochs} epochs: resume with as many, or more")
    if experiment.training.epochs > before.training.epochs and not run.finished:
        raise RunError(
            f"{folder} has not finished its {before.training.epochs} epochs: resume it with as many first, then "
            "train it further"
        )
    return run


def _may_differ(name: str) -> bool:
    """Whether a resumed run may have another setting: where it is and what it runs on, not what it is."""
    return name in _MAY_DIFFER or name.startswith("machine.")


def _epochs_done(run: Run) -> int | None:
    """Of a finished run, for how many epochs it was asked; None before."""
    if not run.finished or run.experiment is None:
        return None
    done = number(run.results, "epochs") if "epochs" in run.results else run.experiment.training.epochs
    if done is None or not run.results:
        raise RunError(f"the results in {run.folder} are damaged: copy them again or train again")
    return int(done)


@contextmanager
def _untouched_after_mistakes(run: Run, *, keep: bool) -> Iterator[None]:
    """Where a run cannot begin, remove the pixels that were kept for it."""
    was_there = run.folder.exists()
    try:
        yield
    except BaseException:
        if not keep:
            forget_pixels(run.store)
            if not was_there and run.folder.exists():
                run.folder.rmdir()
        raise


@contextmanager
def _cleared_after_mistakes(run: Run, *, keep: bool) -> Iterator[None]:
    """Where nothing could be learned, remove the folder unless it is to be kept."""
    try:
        yield
    except InputError:
        if not keep and not run.has_begun:
            shutil.rmtree(run.folder)  # a second try finds its place free
        raise


def _results(experiment: Experiment, data: Dataset, parts: Parts, model: DRMM) -> dict[str, Any]:
    clustering, training = is_clustering(experiment, data), experiment.training
    return {
        "dataset": data.name,
        "labels": len(parts.known),
        "images": len(parts.images),
        "seed": training.seed,
        **({} if training.learning == "head" else {"epochs": training.epochs}),
        "learning": training.learning,
        "constraint": experiment.model.constraint,
        "validation_error": None if parts.validation is None else error_percent(model, *parts.validation),
        **({"test_error": None} if clustering else _test_errors(model, data)),
        "cluster_accuracy": _cluster_accuracy(model, data) if clustering else None,
    }


def _test_errors(model: DRMM, data: Dataset) -> dict[str, Any]:
    """The error of all test images, the mean of the classes' own, and what share of each class is found."""
    known = np.flatnonzero(data.y_test >= 0)
    if not len(known):
        return {"test_error": None}
    x, y = torch.from_numpy(taken(data.x_test, known)), torch.from_numpy(data.y_test[known])
    recall = dict(zip(data.classes, recall_percent(model, x, y, len(data.classes)), strict=True))
    found = [share for share in recall.values() if share is not None]
    balanced = round(100 - sum(found) / len(found), 4)
    error = error_percent(model, x, y)
    return {"test_images": len(known), "test_error": error, "balanced_error": balanced, "recall": recall}


def _cluster_accuracy(model: DRMM, data: Dataset) -> float | None:
    """On the test set, with clusters named by what most of their training images are; in percent."""
    if not (data.y_test >= 0).any() or not (data.y_train >= 0).any():
        return None
    training, test = (
        predict_logits(model, torch.from_numpy(x)).argmax(1).numpy() for x in (data.x_train, data.x_test)
    )
    return cluster_accuracy(test, data.y_test, name_clusters(training, data.y_train))


def _without(results: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key != name}
