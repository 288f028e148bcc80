"""One process of a distributed evaluation; arguments: RANK WORLD FOLDER IMAGE,IMAGE,..."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

from segcore.evaluation import build_evaluator
from tests.segcore.evaluation.scenes import inputs, make


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    mine = [int(k) for k in sys.argv[4].split(",") if k]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    name, _, outputs = make(folder / f"rank{rank}", 7)
    evaluator = build_evaluator(name)
    evaluator.reset()
    for number in mine:
        evaluator.process([inputs(number)], [outputs[number]])
    results = evaluator.evaluate()
    (folder / f"result{rank}.json").write_text(json.dumps(results))
    dist.barrier()  # no process leaves while another still talks to it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # The libraries' native threads may abort while the interpreter is taken down; that is not what is tested.
    os._exit(0)
