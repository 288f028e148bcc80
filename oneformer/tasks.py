"""The three tasks, and the fixed token ids of the sentence that asks for each.

The sentence is "the task is {task}"; its CLIP BPE ids, padded with zeros to
`TASK_SEQ_LEN`, are the raw input of the task MLP (OneFormer, arXiv:2211.06220,
sec. 3.2).  The ids are constants, so a model that is built without the text
branch needs no tokenizer; `tests/oneformer/test_tokenizer.py` checks them
against the tokenizer.
"""

from __future__ import annotations

from itertools import chain

PANOPTIC, INSTANCE, SEMANTIC = "panoptic", "instance", "semantic"
TASKS = (PANOPTIC, INSTANCE, SEMANTIC)
ALL = "all"

TASK_SENTENCE = "The task is {}"
TASK_TOKEN_IDS = {
    SEMANTIC: (49406, 518, 10549, 533, 29119, 1550, 49407),
    INSTANCE: (49406, 518, 10549, 533, 34572, 49407),
    PANOPTIC: (49406, 518, 10549, 533, 1072, 24755, 49407),
}


def expand_task(task: str) -> tuple[str, ...]:
    """The tasks that `task` asks for: itself, or all three for "all".

    Raises:
        ValueError: for any other word.
    """
    if task == ALL:
        return TASKS
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join((*TASKS, ALL))}")
    return (task,)


def asked_tasks(x: dict) -> tuple[str, ...]:
    """The tasks of one input, each once.

    Raises:
        ValueError: if there is none, or one is unknown.
    """
    task = x.get("task")
    if not task:
        raise ValueError(
            f"input {x.get('file_name', '')!r} says no 'task'; "
            "give it one of panoptic, instance, semantic, all"
        )
    names = (task,) if isinstance(task, str) else task
    return tuple(dict.fromkeys(chain.from_iterable(expand_task(name) for name in names)))
