"""The scikit-learn face of the model: few labels in, classes, features, pictures and samples out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import _safe_indexing, check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from drmm.data.labels import UNLABELLED, check_labels, known_labels, warn_if_all_labelled
from drmm.data.splits import holdout
from drmm.errors import InputError
from drmm.estimators.base import ImageEstimator, seed_of
from drmm.estimators.few_labels import FewLabelsMixin
from drmm.estimators.settings import RECORDS, Settings, changed, settings_of_recipe
from drmm.learning.config import Machine, Training
from drmm.learning.metrics import at_once, labels_from_folder
from drmm.learning.objective import Objective
from drmm.learning.recipes import DEFAULT, ON_NETS
from drmm.learning.recipes import names as names_of_recipes
from drmm.learning.train import train
from drmm.model.constraints import is_nonnegative, set_weight
from drmm.model.deep import DRMM
from drmm.model.randomness import categorical
from drmm.records import from_table
from drmm.runs.assessing import Lesson, assessed
from drmm.runs.parts import warn_of_few
from drmm.runs.run import Run
from drmm.storage.models import Recipe, misfit, start_model
from drmm.storage.own import name_of
from drmm.storage.preprocessing import Preprocessing
from drmm.trust.assessment import Answers, Assessment
from drmm.trust.calibration import Calibration
from drmm.trust.promise import PROMISE

__all__ = ["DRMMClassifier"]

Array = npt.NDArray[Any]

_DRAWS = 16  # switches per picture in inverse_transform
_LEAST = 1e-3  # of the largest entry of templates that must not be negative: at 0 their entries have no slope


class DRMMClassifier(FewLabelsMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ImageEstimator):  # type: ignore[misc]
    """Few-label image classifier, and generative model of its images.

    X is (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float, or 2-D with `image_shape`. Two-dimensional X
    without `image_shape` is taken as vectors: they are standardised and the preset is "dense".

    Settings come from a recipe, the same as of `drmm fit`; `drmm settings` lists them all. `model`, `objective`,
    `training` and `machine` change them: a dictionary changes some settings, a record replaces all of its kind,
    and `set_params(objective__kl=0.3)`, as in a grid search, reaches every one. `load` opens what `drmm fit` has
    trained.

    In cross-validation, `SemiSupervisedKFold` keeps unlabelled images in every training part. What takes -1 for a
    class, as scorers by name and `CalibratedClassifierCV` do, is refused. `fit` takes no `sample_weight`.

    Args:
        recipe: name of a recipe, or the path of a TOML file; None is "few-labels", or "photos-quick" on a net of
            your own.
        net: a net of your own, in place of a preset: a module, which stays as it is; what makes one when it is
            called; or that by its name, "package.module:factory". Its weights are those that it has.
        preprocess: what it was trained on, as a dictionary of `mean` and `std` of pictures in [0, 1] (and their
            `size`), as timm or Hugging Face have it, or as text: "mean=0.485/0.456/0.406,std=0.229/0.224/0.225".
        model: `drmm.storage.models.Recipe` or a dictionary: preset, constraint, width, depth.
        objective: `drmm.Objective` or a dictionary: weights of the terms.
        training: `drmm.learning.config.Training` or a dictionary: learning rule, batches, rates.
        machine: `drmm.learning.config.Machine` or a dictionary: accelerator, devices, precision, compile.
        teacher: whose labels the images without one get: a classifier that is fitted first, to the same images and
            labels (one that is fitted already is wrapped in `sklearn.frozen.FrozenEstimator`), the name of a
            recipe, or the folder of a run. The hard constraint learns badly from few labels, and well from a
            teacher. None is the recipe's, and "" none at all.
        epochs: passes over the images, or iterations of EM; None is the recipe's. `training__min_steps` steps are
            made at the least, however few the images.
        validation: labelled images held out to watch the error while training; a teacher does not see them.
        n_clusters: how many clusters, where y is -1 throughout.
        calibrate: find out while fitting how far the classifier can be trusted, by learning without some labels
            (`drmm.runs.experiment.Trust`, which takes twice as long again): then `predict_proba` is
            calibrated, and `familiarity` and `decide` answer. It warns where unlabelled images are not like the
            labelled ones, as those of a class without labels are. With a teacher, who knows the labels, there is
            nothing to calibrate by.
        warm_start: begin with the levels of the former `fit`, on images of the same shape, whatever its classes:
            find clusters without labels first, then fit again with a few.
        image_shape: (H, W), (C, H, W) or (H, W, C) of one image, to unflatten 2-D X with.
        pixel_range: values of black and white in X; uint8 is always 0 to 255.
        random_state: seed of weights and batches, in place of `training__seed`.
        verbose: 1 shows a progress bar.

    Attributes:
        classes_: class labels (K,), without -1; numbers of the clusters where there were no labels.
        teacher_: the fitted teacher, where it is an estimator.
        assessment_: how far it can be trusted (`drmm.trust.assessment`), or None.
        model_: the trained `drmm.DRMM`, in evaluation mode.
        recipe_: how it is built.
        image_shape_: (C, H, W) that the model works on.
        n_features_in_: numbers in one image.
    """

    model_: DRMM
    recipe_: Recipe
    assessment_: Assessment | None
    _fewest = 2

    def __init__(
        self,
        recipe: str | None = None,
        *,
        net: nn.Module | Callable[[], nn.Module] | str | None = None,
        preprocess: Mapping[str, Any] | str | None = None,
        model: Recipe | Mapping[str, Any] | None = None,
        objective: Objective | Mapping[str, Any] | None = None,
        training: Training | Mapping[str, Any] | None = None,
        machine: Machine | Mapping[str, Any] | None = None,
        teacher: Any = None,
        epochs: int | None = None,
        validation: int = 0,
        n_clusters: int = 10,
        calibrate: bool = False,
        warm_start: bool = False,
        image_shape: tuple[int, ...] | None = None,
        pixel_range: tuple[float, float] = (0.0, 1.0),
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.recipe = recipe
        self.net = net
        self.preprocess = preprocess
        self.model = model
        self.objective = objective
        self.training = training
        self.machine = machine
        self.teacher = teacher
        self.epochs = epochs
        self.validation = validation
        self.n_clusters = n_clusters
        self.calibrate = calibrate
        self.warm_start = warm_start
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """The classifier that the command line has trained, with its settings.

        It takes images of the run's size in any layout, and draws them as `drmm.data.load` has them: uint8
        (N, C, H, W). Its classes are names, as in the run.

        Args:
            run: folder of `drmm fit`, `drmm prune` or `drmm demo`, or any with a model.

        Raises:
            RunError: if it holds no model, or a file is damaged.
        """
        opened = Run.open(Path(run).expanduser())
        recipe, asked = opened.recipe, opened.experiment
        classifier = cls(model=recipe, image_shape=recipe.image_shape, n_clusters=len(recipe.classes))
        if asked is not None:
            teacher = "" if asked.teacher is None else asked.teacher.source
            records = {name: getattr(asked, name) for name in RECORDS if name != "model"}
            classifier.set_params(**records, teacher=teacher, validation=asked.data.validation)
        classifier._images(np.full((1, *recipe.image_shape), 255, np.uint8), fitting=True)
        classifier.model_, classifier.recipe_, classifier.net_ = opened.model, recipe, None
        classifier.assessment_ = opened.assessment
        classifier.calibrate = classifier.assessment_ is not None
        classifier.classes_ = np.array(recipe.classes)
        return classifier

    def set_params(self, **params: Any) -> Self:
        """As in scikit-learn; `objective__kl` and the like reach every setting of the recipe.

        Raises:
            InputError: if there is no such setting, or its value cannot be read.
        """
        nested: dict[str, dict[str, Any]] = {}
        for key in list(params):
            name, _, setting = key.partition("__")
            if name in RECORDS and setting:
                nested.setdefault(name, {})[setting] = params.pop(key)
        super().set_params(**params)
        for name, values in nested.items():
            setattr(self, name, changed(name, getattr(self, name), values))
        return self

    def fit(self, X: object, y: object) -> Self:
        """Learn from images of which few have a label, or none: then the classes are clusters.

        Args:
            X: images.
            y: labels (N,); -1 means unlabelled.

        Raises:
            InputError: images or labels that cannot be used; the message says what to do.

        Warns:
            UserWarning: some class has fewer than three labels; every image has one.
        """
        before = (self.model_, self.recipe_) if self.warm_start and hasattr(self, "model_") else None
        x = self._images(X, fitting=True)
        self.classes_, codes, names = self._classes(y, len(x))
        settings = self._settings()
        seed = seed_of(self.random_state)
        X, y, x, codes, validation = self._held_out(X, y, x, codes, seed)
        if (codes != UNLABELLED).any():
            warn_of_few(codes, names)
        teacher = settings.teacher if self.teacher is None else self.teacher
        taught = not isinstance(teacher, str) or teacher != ""
        if taught:
            codes = self._taught(self._teacher(teacher, settings), X, x, y, codes)
        labelled = bool((codes != UNLABELLED).any())
        objective = settings.objective.for_pictures(self.image_shape_, labelled=labelled)
        settings = replace(settings, objective=objective).resolved(taught=taught)
        epochs = settings.training.epochs if self.epochs is None else self.epochs
        training = settings.training.set_params(seed=seed, epochs=epochs)
        self.recipe_, self.net_ = settings.model.fitted(self.image_shape_, names), self.net
        model, labels = start_model(self.recipe_, seed, net=self.net_), torch.from_numpy(codes)
        if before is not None:
            training = replace(training, initialisation="default")
            _go_on(model, before[0], x, None if before[1].classes == names else labels)
        options: dict[str, Any] = {
            "objective": settings.objective,
            "machine": settings.machine,
            "progress": self.verbose > 0,
        }
        self.model_ = train(model, x, labels, config=training, validation=validation, **options)
        self.assessment_ = None
        if self.calibrate:
            own = torch.full_like(labels, UNLABELLED) if taught else labels
            lesson = Lesson(training, settings.objective, settings.machine, own)

            def by(lesson: Lesson) -> DRMM:
                fresh = start_model(self.recipe_, seed, net=self.net_)
                terms = {**options, "objective": lesson.objective}
                return train(fresh, x, lesson.labels, config=lesson.training, settle=not lesson.fold, **terms)

            tell = partial(warnings.warn, stacklevel=3)
            x = x.to(self.model_.templates.weight.dtype)
            self.model_, self.assessment_ = assessed(self.model_, x, lesson, settings.trust, by, tell)
            if self.assessment_.strangers:
                warnings.warn(self.assessment_.warning, UserWarning, stacklevel=2)
        return self

    def _settings(self) -> Settings:
        """What to learn with; a net of one's own takes the place of the recipe's model."""
        records = {name: getattr(self, name) for name in RECORDS}
        if self.net is None and self.preprocess is None:
            return settings_of_recipe(DEFAULT if self.recipe is None else self.recipe, records)
        recipe = ON_NETS if self.recipe is None else self.recipe
        settings = settings_of_recipe(recipe, {**records, "model": None})
        model = self.model if isinstance(self.model, Recipe) else from_table(Recipe, self.model or {})
        said = "" if self.preprocess is None else str(Preprocessing.read(self.preprocess))
        model = replace(model, net="" if self.net is None else name_of(self.net), preprocess=said)
        height, width = self.image_shape_[1:]
        if model.size not in {None, (height, width)}:
            raise InputError(
                f"X holds images of {height}x{width} pixels, and preprocess says another size: resize them, or "
                "leave size out"
            )
        return replace(settings, model=model)

    def _held_out(
        self, X: object, y: object, x: Tensor, codes: Array, seed: int
    ) -> tuple[object, object, Tensor, Array, tuple[Tensor, Tensor] | None]:
        """What is left to learn from, in both forms, and the validation part if there is one."""
        if not self.validation:
            return X, y, x, codes, None
        held_out = holdout(codes, self.validation, seed=seed)
        kept = np.setdiff1d(np.arange(len(x)), held_out)
        validation = (x[held_out], torch.from_numpy(codes[held_out]))
        return _safe_indexing(X, kept), _safe_indexing(y, kept), x[kept], codes[kept], validation

    def _classes(self, y: object, n_images: int) -> tuple[Array, Array, tuple[str, ...]]:
        """Classes, codes and names; numbers of clusters where no image has a label."""
        known, _ = known_labels(y, n_images)
        if known.any():
            classes, codes = check_labels(np.asarray(y).ravel(), n_images)
            warn_if_all_labelled(codes)
            return classes, codes, tuple(str(name) for name in classes)
        asked: Any = self.n_clusters
        if not isinstance(asked, Integral) or asked < 2:
            raise InputError(f"n_clusters must be at least 2, and whole, not {asked!r}")
        return np.arange(self.n_clusters), np.full(n_images, UNLABELLED), _names_of_clusters(self.n_clusters)

    def _teacher(self, teacher: Any, settings: Settings) -> Any:
        """An estimator to fit, or the folder of a run; a recipe learns a model of the same size."""
        if not isinstance(teacher, str | Path):
            return teacher
        if str(teacher) not in names_of_recipes() and Path(teacher).is_dir():
            return Path(teacher)
        lesson = settings_of_recipe(teacher, dict.fromkeys(RECORDS))
        model = replace(settings.model, constraint=lesson.model.constraint)
        own = {"objective": None, "training": None, "teacher": "", "epochs": None, "validation": 0}
        return clone(self).set_params(recipe=teacher, model=model, **own)

    def _taught(self, teacher: Any, X: object, x: Tensor, y: object, codes: Array) -> Array:
        """Codes as they are, and where there is none that of what the teacher says."""
        if (codes == UNLABELLED).all():
            raise InputError("a teacher needs labels to learn from: label some images, or leave the teacher out")
        if isinstance(teacher, Path):
            names = [str(name) for name in self.classes_]
            labels = labels_from_folder(teacher, names, self.image_shape_, x, torch.from_numpy(codes))
            return np.asarray(labels.numpy())
        self.teacher_ = clone(teacher).fit(X, y)
        answers = np.asarray(self.teacher_.predict(X))
        if not np.isin(answers, self.classes_).all():
            raise InputError("the teacher knows classes that y does not have: fit it to the same labels")
        return np.where(codes == UNLABELLED, np.searchsorted(self.classes_, answers), codes)

    def predict(self, X: object) -> Array:
        """Labels (N,) of images: always one of `classes_`, never -1."""
        codes = self.predict_log_proba(X).argmax(1)
        return np.asarray(self.classes_[codes])

    def predict_proba(self, X: object) -> Array:
        """Posterior q(c|I) of each class, (N, K); calibrated with `calibrate`."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: object) -> Array:
        """Log q(c|I) of each class, (N, K), in nats; calibrated with `calibrate`."""
        logits = self._run(X, "logits")
        known = self.assessment_
        return (Calibration() if known is None else known.calibration).log_probability(logits)

    def familiarity(self, X: object) -> Array:
        """Share of the training images that are at least as strange as each image, (N,): a p-value.

        Raises:
            InputError: if it was fitted without `calibrate`.
        """
        return self._answers(X)[1].familiarity

    def decide(self, X: object, promise: float = PROMISE) -> Array:
        """What to do with each image, (N,): "sorted", "unsure" or "unfamiliar".

        As many of the sorted images are right as promised: at 95 % confidence where the labels suffice to show it,
        which `assessment_.surest(promise)` tells, else by the calibrated confidence.

        Args:
            X: images.
            promise: share of the sorted images that is to be right.

        Raises:
            InputError: if it was fitted without `calibrate`, or the promise is no share between 0 and 1.
        """
        assessment, answers = self._answers(X)
        return assessment.decide(answers, promise)

    @torch.no_grad()
    def _answers(self, X: object) -> tuple[Assessment, Answers]:
        check_is_fitted(self)
        if self.assessment_ is None:
            raise InputError("nothing is known of what is familiar: fit with calibrate=True")
        images, model = self._images_and_model(X)
        return self.assessment_, self.assessment_.of_pictures(model, images)

    def score(self, X: object, y: object, sample_weight: object = None) -> float:
        """As for any few labels; clusters, which are numbered anyhow, have none.

        Raises:
            InputError: if y holds no labels, or the classes are clusters.
        """
        check_is_fitted(self)
        if self.recipe_.classes == _names_of_clusters(len(self.classes_)):
            raise InputError(
                "clusters have no labels to compare with y: use sklearn.metrics.adjusted_rand_score(y, predict(X))"
            )
        return super().score(X, y, sample_weight)

    def decision_function(self, X: object) -> Array:
        """Max-sum score of each class, (N, K); for two classes the second's lead over the first, (N,)."""
        logits = self._run(X, "logits")
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def transform(self, X: object) -> Array:
        """Top-level features I^(L), (N, D)."""
        return self._run(X, "features")

    @property
    def _n_features_out(self) -> int:
        """Numbers that `transform` makes of an image, which `get_feature_names_out` names."""
        return int(self.model_.templates.weight.shape[1])

    @torch.no_grad()
    def inverse_transform(self, features: object) -> Array:
        """Pictures that features are drawn as, averaged over the prior of the switches, in the layout of X.

        Args:
            features: (N, D), as from `transform`.

        Raises:
            InputError: if they are something else.
        """
        check_is_fitted(self)
        z = torch.tensor(np.asarray(features, dtype=np.float32))
        if z.ndim != 2 or not len(z) or z.shape[1] != self._n_features_out or not bool(z.isfinite().all()):
            raise InputError(
                f"features must be (N, {self._n_features_out}), and finite, as transform returns them"
            )
        generator = torch.Generator().manual_seed(0)
        latents = self.model_.sample_latents(_DRAWS, 0, generator)
        pictures = [
            self.model_.levels.render(z[i : i + 1].expand(_DRAWS, -1), latents.switches).mean(0)
            for i in range(len(z))
        ]
        return self._layout(self.model_.amplitude * torch.stack(pictures))

    def sample(
        self, n_samples: int = 1, label: object = None, random_state: int | None = None
    ) -> tuple[Array, Array]:
        """Draw images from the model, with their labels, as in `sklearn.mixture.GaussianMixture.sample`.

        Args:
            n_samples: how many.
            label: one of `classes_`, or None for any.
            random_state: seed.

        Returns:
            Images in the layout of X, and labels (n_samples,).
        """
        check_is_fitted(self)
        check_scalar(n_samples, "n_samples", Integral, min_val=0)
        generator = torch.Generator().manual_seed(seed_of(random_state))
        if label is None:
            codes = categorical(self.model_.class_prior, n_samples, generator)
        else:
            matches = np.flatnonzero(self.classes_ == label)
            if len(matches) != 1:
                raise InputError(f"label {label!r} is not among the classes {self.classes_.tolist()}")
            codes = torch.full((n_samples,), int(matches[0]))
        return self._layout(self.model_.sample(n_samples, codes, generator)), self.classes_[codes.numpy()]

    @torch.no_grad()
    def _run(self, X: object, what: str) -> Array:
        """Features or logits of all images, chunk by chunk."""
        check_is_fitted(self)
        images, model = self._images_and_model(X)
        parts = []
        for x in images.split(at_once(images)):
            features = model.levels(x)
            parts.append(features if what == "features" else model.templates(features))
        return np.asarray(torch.cat(parts).float().numpy())

    def _images_and_model(self, X: object) -> tuple[Tensor, DRMM]:
        images, model = self._images(X), self.model_
        # Vectors: in double precision the last bits do not depend on the batch's size.
        return images, copy.deepcopy(model).double() if images.dtype == torch.float64 else model

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _rebuilt(self, weights: dict[str, Tensor]) -> DRMM:
        model = self.recipe_.build(net=self.net_).eval()
        model.load_state_dict(weights)
        return model


def _names_of_clusters(n: int) -> tuple[str, ...]:
    return tuple(f"cluster {i}" for i in range(n))


@torch.no_grad()
def _go_on(model: DRMM, before: DRMM, x: Tensor, labels: Tensor | None) -> None:
    """Take over the levels of a former model, and its class templates.

    Args:
        model: fresh.
        before: what to go on from, in evaluation mode.
        x: images.
        labels: where the classes are other ones now: a class starts with the mean of the templates that explained
            its labelled images. A class without a label starts afresh.
    """
    levels = before.levels.state_dict()
    if misfit(model.levels.state_dict(), levels) is not None:
        raise InputError("warm_start needs the same images, preset, width and depth as before: set it to False")
    model.levels.load_state_dict(levels)
    if labels is None:
        model.templates.load_state_dict(before.templates.state_dict())
        return
    known = labels >= 0
    if not bool(known.any()):
        return
    explained, y = before(x[known]).argmax(1), labels[known]
    fresh = model.templates.weight.clone()
    weight = fresh.clone()
    for c in y.unique().tolist():
        weight[c] = before.templates.weight[explained[y == c]].mean(0)
    # What classes have in common tells none apart, and learning by gradient wants templates of the usual length.
    if is_nonnegative(model.templates):
        weight = weight - weight.amin(0)
        weight = weight.clamp(min=_LEAST * float(weight.max()))
    else:
        weight -= weight.mean(0)
    set_weight(model.templates, weight * (fresh.norm() / weight.norm().clamp(min=1e-12)))
