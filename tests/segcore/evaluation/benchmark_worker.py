"""One process of a distributed evaluation of the benchmarks; arguments: RANK WORLD FOLDER ROOT IMAGE,IMAGE,..."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

from segcore.evaluation import build_evaluator
from tests.segcore.evaluation.benchmark_sets import PANOPTIC, near_output, panoptic_records, use_root


def main() -> None:
    rank, world, folder, root = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    mine = [int(k) for k in sys.argv[5].split(",")]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    use_root(root)
    results = {}
    for name in sorted(PANOPTIC):
        records = panoptic_records(name)
        output_dir = str(folder / "two" / name)
        evaluator = build_evaluator(PANOPTIC[name], output_dir=output_dir, save_predictions=True)
        evaluator.reset()
        for number in mine:
            evaluator.process([records[number]], [near_output(name, records[number], number)])
        results[name] = evaluator.evaluate()
    (folder / f"result{rank}.json").write_text(json.dumps(results))
    dist.barrier()  # no process leaves while another still talks to it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # The libraries' native threads may abort while the interpreter is taken down; that is not what is tested.
    os._exit(0)
