"""The tokenizer against the ids that CLIP's own gives, and its edges."""

from __future__ import annotations

import json

import pytest

from oneformer.data.tokenizer import Tokenizer
from oneformer.tasks import TASK_SENTENCE, TASK_TOKEN_IDS

START, END = 49406, 49407


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


@pytest.mark.parametrize("task", sorted(TASK_TOKEN_IDS))
def test_task_sentences(tokenizer, task):
    ids = TASK_TOKEN_IDS[task]
    assert tokenizer(TASK_SENTENCE.format(task))[0].tolist() == [*ids, *[0] * (77 - len(ids))]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("  a  photo\twith ", [320, 1125, 593]),
        ("café &amp;amp; bar", [15304, 261, 2411]),
        ("it's 2023's “quoted” text!!", [585, 568, 273, 271, 273, 274, 568, 257, 27706, 257, 4160, 748]),
        ("<|startoftext|>a<|endoftext|>", [START, 320, END]),
    ],
)
def test_known_ids(tokenizer, text, ids):
    assert tokenizer.encode(text) == ids


def test_long_text_is_cut_and_keeps_the_end_mark(tokenizer):
    row = tokenizer(["word " * 100, "word"], context_length=8)
    assert row.shape == (2, 8)
    assert row[0].tolist() == [START, *[2653] * 6, END]
    assert row[1].tolist() == [START, 2653, END, 0, 0, 0, 0, 0]


def test_emoji_and_rare_letters_fall_back_to_bytes(tokenizer):
    # 4 UTF-8 bytes give at most 4 pieces, and different letters different ids
    assert 1 <= len(tokenizer.encode("\U0001f984")) <= 4
    assert tokenizer.encode("ኢ") != tokenizer.encode("ኣ")


def test_golden_tokens(tokenizer, spec_dir):
    golden = json.loads((spec_dir / "oneformer/golden/tokens.json").read_text())
    rows = tokenizer(list(golden))
    for (text, ids), row in zip(golden.items(), rows.tolist()):
        assert row == [*ids, *[0] * (77 - len(ids))], text
