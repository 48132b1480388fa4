"""A picture with two explanations that are as good is seen one way or the other, whole: never as half of each.

Slide "Question: What is the inference task performed by a Convnet?" asks for the joint maximum, one consistent
interpretation, as people see a Necker cube. Here two templates share their outline and differ in parts of two
levels; the picture has all parts of both. Every part's own ReLU is on (bottom-up, the parts do not know of each
other), and the two classes' scores are equal. What inference draws is one of the two templates, to rounding, and
swings over to the other, all parts at once, where the picture leans a hair to that side. Controls: what the parts
say by themselves, and the mean over the posterior, draw a mixture that is neither.
"""

import pytest
import torch
from torch import Tensor

from drmm import DRMM
from drmm.rendering import Flatten, Linear, ReLU, Sequential

OUTLINE, LEFT, RIGHT = (0, 1), (2, 3, 4, 5), (6, 7, 8, 9)  # pixels
SIDE = 10
HAIR = 1e-6


def cube() -> DRMM:
    """Each corner is a pixel; a face has two corners, a cube two faces of its own and the outline."""
    corners, faces, cubes = Linear(SIDE, SIDE, bias=False), Linear(SIDE, 5, bias=False), Linear(5, 2, bias=False)
    groups = (OUTLINE, LEFT[:2], LEFT[2:], RIGHT[:2], RIGHT[2:])
    with torch.no_grad():
        corners.weight.copy_(torch.eye(SIDE))
        faces.weight.zero_()
        for face, group in enumerate(groups):
            faces.weight[face, list(group)] = 1.0
        cubes.weight.copy_(torch.tensor([[1.0, 1, 1, 0, 0], [1.0, 0, 0, 1, 1]]))
    levels = Sequential(Flatten(), corners, ReLU(), faces, ReLU())
    return DRMM(levels, cubes, image_shape=(1, 1, SIDE)).eval()


def picture(lean: float = 0.0) -> Tensor:
    """All corners of both cubes, those of one a little brighter."""
    x = torch.ones(1, 1, 1, SIDE)
    x[..., list(LEFT)] += lean
    return x


def of_one(faces: tuple[int, ...]) -> Tensor:
    """The outline and the faces of one cube, as a template draws them, (10,)."""
    shown = torch.zeros(SIDE)
    shown[list(OUTLINE + faces)] = 1.0
    return shown


def angle(one: Tensor, other: Tensor) -> float:
    """Cosine between two pictures."""
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


@torch.no_grad()
def test_two_explanations_are_as_good_and_every_part_of_both_is_on() -> None:
    model, x = cube(), picture()
    logits = model(x)[0]
    assert logits[0] == logits[1]
    assert (model.levels(x) > 0).all()


@pytest.mark.parametrize("lean", [0.0, HAIR, -HAIR, 0.1, -0.1])
@torch.no_grad()
def test_one_whole_is_seen(lean: float) -> None:
    model, x = cube(), picture(lean)
    seen, other = (LEFT, RIGHT) if lean >= 0 else (RIGHT, LEFT)
    drawn = model.reconstruct(x)
    assert angle(drawn, of_one(seen)) == pytest.approx(1, abs=1e-12)
    assert drawn.flatten()[list(other)].abs().max() == 0, "no part of the other one"


@torch.no_grad()
def test_it_swings_over_all_at_once() -> None:
    one, other = (cube().reconstruct(picture(lean)) for lean in (HAIR, -HAIR))
    assert angle(picture(HAIR), picture(-HAIR)) == pytest.approx(1, abs=1e-9), (
        "control: the pictures hardly differ"
    )
    assert angle(one, other) == pytest.approx(len(OUTLINE) / len(OUTLINE + LEFT), abs=1e-6)


@torch.no_grad()
def test_control_parts_by_themselves_and_the_mean_explanation_are_a_mixture() -> None:
    model, x = cube(), picture()
    latents = [model.infer(x, label=c) for c in range(2)]
    parts = model.levels.render(
        torch.ones(1, 5), latents[0].switches
    )  # every part that is on, whoever asks for it
    posterior = model(x)[0].softmax(0)
    mean = sum(share * model.picture(one) for share, one in zip(posterior, latents, strict=True))
    for mixture in (parts, mean):
        assert max(angle(mixture, of_one(cube)) for cube in (LEFT, RIGHT)) < 0.9
