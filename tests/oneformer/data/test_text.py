"""The list of texts, by hand."""

from __future__ import annotations

from oneformer.data.text import text_list, unique_texts

NAMES = ["wall", "window ", "car"]


def test_objects_follow_class_order_and_padding_names_the_task():
    texts = text_list([2, 0, 2], NAMES, "instance", 5)
    assert texts == [
        "a photo with a wall",
        "a photo with a car",
        "a photo with a car",
        *["an instance photo"] * 2,
    ]


def test_names_are_used_as_they_are():
    assert text_list([1], NAMES, "semantic", 2) == ["a photo with a window ", "a semantic photo"]


def test_too_many_objects_are_cut():
    assert text_list([2, 1, 0, 0], NAMES, "panoptic", 3) == ["a photo with a wall"] * 2 + [
        "a photo with a window "
    ]


def test_no_objects():
    assert text_list([], NAMES, "panoptic", 2) == ["a panoptic photo"] * 2


def test_unique_texts_rebuild_the_list():
    texts = ["b", "a", "b", "c", "c"]
    unique, index = unique_texts(texts)
    assert unique == ["b", "a", "c"]
    assert [unique[i] for i in index] == texts
