"""Pictures of results: right places, right colours, any size, labels that do not cover each other."""

from __future__ import annotations

import numpy as np
import pytest

from segcore.predictions import InstanceResult, PanopticResult, Prediction, SemanticResult
from segcore.visualization import contact_sheet, grid, render, render_all, with_legend
from segcore.visualization.colors import display_color, ink, luma, object_color
from segcore.visualization.labels import Label, _free_place, draw_labels
from segcore.visualization.layers import blend_map, blend_mask, draw_borders
from segcore.visualization.legend import Entry, legend
from tests.pictures import CLASSES, photograph, prediction

BLACK = np.zeros((40, 60, 3), np.uint8)


def nothing(height: int, width: int) -> Prediction:
    """No segment, no object; semantic maps have a class everywhere."""
    empty = InstanceResult(
        np.zeros((0, height, width), bool), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), []
    )
    return Prediction(
        (height, width),
        CLASSES,
        PanopticResult(np.zeros((height, width), np.int32), []),
        empty,
        SemanticResult(np.zeros((height, width), np.uint8), CLASSES.names),
    )


# ---------------------------------------------------------------- colours


def test_colours_are_bright_and_keep_their_hue():
    for color in [(0, 0, 128), (0, 0, 0), (128, 64, 0), (70, 70, 70), (255, 255, 255)]:
        shown = display_color(color)
        assert luma(shown) >= 94 and all(0 <= v <= 255 for v in shown)
    red, green, blue = display_color((0, 0, 128))
    assert red == green < blue
    assert len(set(display_color((70, 70, 70)))) == 1


def test_objects_of_a_class_differ():
    colors = [object_color((128, 0, 128), number) for number in range(12)]
    assert len(set(colors)) == 12 and colors[0] == display_color((128, 0, 128))
    assert all(0 <= v <= 255 for color in colors for v in color)


def test_ink():
    assert ink((255, 255, 255)) == (20, 20, 20) and ink((0, 0, 90)) == (255, 255, 255)


# ---------------------------------------------------------------- layers


def test_blend_leaves_void_alone_and_mixes_the_rest():
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = blend_map(image, np.array([[0, 1, 2]]), [(200, 0, 100), (0, 0, 0)], 0.5)
    np.testing.assert_array_equal(mixed, [[[100] * 3, [150, 50, 100], [50] * 3]])


def test_borders_are_where_slots_meet():
    slots = np.repeat([[1, 1, 1, 1, 1, 2, 2, 2, 2, 2]], 10, 0)
    drawn = draw_borders(np.zeros((10, 10, 3), np.uint8), slots, 1)
    assert drawn[:, 5].min() > 100 and drawn[:, :3].max() == 0 and drawn[:, 8:].max() == 0


def test_a_mask_paints_itself_alone():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    painted = blend_mask(BLACK, mask, (200, 100, 0), 0.5, 1)
    np.testing.assert_array_equal(painted[15, 40], [100, 50, 0])
    assert painted[:5].max() == painted[:, :20].max() == 0
    assert BLACK.max() == 0  # the input is not drawn on
    np.testing.assert_array_equal(blend_mask(BLACK, np.zeros((40, 60), bool), (9, 9, 9), 0.5, 1), BLACK)


# ---------------------------------------------------------------- labels


def test_a_label_lies_in_its_mask():
    mask = np.zeros((100, 200), bool)
    mask[60:95, 100:190] = True
    x0, y0, x1, y1 = _free_place(mask, (40, 12), [])
    assert mask[y0:y1, x0:x1].all() and (x1 - x0, y1 - y0) == (40, 12)


def test_labels_do_not_cover_each_other():
    mask = np.ones((100, 200), bool)
    taken = []
    for _ in range(6):
        place = _free_place(mask, (50, 20), taken)
        if place is not None:
            assert not any(
                place[0] < o[2] and o[0] < place[2] and place[1] < o[3] and o[1] < place[3] for o in taken
            )
            taken.append(place)
    assert len(taken) >= 3


def test_small_print_is_left_out():
    mask = np.zeros((100, 200), bool)
    mask[50:53, 50:53] = True
    assert _free_place(mask, (40, 12), []) is None
    image = np.full((100, 200, 3), 90, np.uint8)
    np.testing.assert_array_equal(draw_labels(image, [Label("tiny", mask, (255, 0, 0), 1)], 12), image)


def test_a_label_does_not_hide_a_small_object():
    """Wherever it is, at the picture's edge too."""
    for y, x in ((50, 80), (0, 0), (90, 190), (0, 100), (45, 190)):
        mask = np.zeros((100, 200), bool)
        mask[y : y + 10, x : x + 10] = True
        x0, y0, x1, y1 = _free_place(mask, (44, 16), [])
        assert not mask[y0:y1, x0:x1].any()
        assert x0 >= 0 and y0 >= 0 and x1 <= 200 and y1 <= 100


def test_a_label_stays_in_the_picture():
    mask = np.zeros((60, 120), bool)
    mask[:, :20] = True
    x0, y0, x1, y1 = _free_place(mask, (44, 18), [])
    assert x0 >= 0 and y0 >= 0 and x1 <= 120 and y1 <= 60


# ---------------------------------------------------------------- legend, grid


def test_legend_grows_with_its_entries():
    entries = [Entry((200, 0, 0), f"class {i}", "1.0 %") for i in range(30)]
    heights = [legend(entries[:count], 600, 14).shape for count in (1, 10, 30)]
    assert [shape[1] for shape in heights] == [600] * 3
    assert heights[0][0] < heights[1][0] < heights[2][0]
    assert (legend(entries[:1], 600, 14) == (200, 0, 0)).all(-1).any()
    assert legend([], 600, 14).min() < 200  # says that nothing was found
    assert legend(entries, 40, 14).shape[1] == 40  # narrower than a name


def test_grid():
    cells = [np.full((2, 3, 3), i, np.uint8) for i in (1, 2, 3)]
    sheet = grid(cells, 2, gap=1, color=(9, 9, 9))
    np.testing.assert_array_equal(
        sheet[..., 0],
        [[1, 1, 1, 9, 2, 2, 2]] * 2 + [[9] * 7] + [[3, 3, 3, 9, 9, 9, 9]] * 2,
    )


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_picture_shows_its_segments(task):
    """In the middle of the left car is the car's colour, as strong as it is laid on."""
    found = prediction(repeat=60)
    image = np.zeros((*found.size, 3), np.uint8)
    drawn = render(image, found, task, long_side=360)
    assert drawn.shape == (240, 360, 3)
    # Beside the label, which sits in the middle.
    car, road = drawn[70, 70], drawn[225, 200]
    ratio = car / np.array(display_color(CLASSES.colors[1]))
    np.testing.assert_allclose(ratio, ratio[0], atol=0.05)
    assert 0.5 < ratio[0] < 0.7
    assert (road.max() > 60) == (task != "instance")  # roads are no objects
    assert task == "semantic" or drawn[120, 20].max() < 40  # void stays as it was


def test_small_photographs_are_enlarged_and_large_ones_reduced():
    assert render(photograph(4, 6), prediction(), "panoptic").shape[1] == 960
    assert max(render(photograph(1600, 2400), prediction(400), "semantic").shape) == 2000


@pytest.mark.parametrize("size", [(1, 1), (5000, 33), (33, 5000), (2, 3)])
def test_any_size_can_be_drawn(size):
    image, found = photograph(*size), nothing(*size)
    for task in ("panoptic", "instance", "semantic"):
        picture = with_legend(image, found, task)
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.shape[1] >= 420
    assert contact_sheet(image, found, "a" * 300).ndim == 3


def test_contact_sheet_holds_the_photograph_and_its_results():
    image = np.zeros((240, 360, 3), np.uint8)
    image[..., 1] = 77  # no drawing has this colour
    sheet = contact_sheet(image, prediction(60), "street.jpg")
    share = (sheet == (0, 77, 0)).all(-1).mean()
    assert 0.15 < share < 0.3  # one panel of four, and void
    semantic_only = Prediction((240, 360), CLASSES, semantic=prediction(60).semantic)
    assert contact_sheet(image, semantic_only).shape[0] < sheet.shape[0]
    assert list(render_all(image, semantic_only)) == ["semantic"]


def test_wrong_calls():
    with pytest.raises(ValueError, match="unknown task 'panoptik'"):
        render(photograph(4, 6), prediction(), "panoptik")
    with pytest.raises(ValueError, match=r"the image is \(5, 6\), the prediction \(4, 6\)"):
        render(photograph(5, 6), prediction(), "panoptic")
    with pytest.raises(ValueError, match="has no instance result"):
        with_legend(photograph(4, 6), Prediction((4, 6), CLASSES, semantic=prediction().semantic), "instance")
