"""Train or evaluate on a SLURM cluster: one process per GPU, started again with --resume after a time-out.

python tools/slurm.py --nodes 2 --gpus 8 --hours 48 --partition gpu -- \
    --config-file configs/ade20k/oneformer_swin_l.yaml OUTPUT_DIR output/swin_l

What follows `--` are the arguments of train_net.py.  Needs `pip install submitit`.  With `--executor local`
the processes run on this machine, which tests a launch without a cluster.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


class Training:
    """What each process of a job runs; submitit pickles it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)

    def __call__(self) -> int:
        import submitit

        # Every process sees all GPUs of its machine and takes the one of its local rank, as under torchrun.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.chdir(REPO)
        sys.path.insert(0, str(REPO))
        spec = importlib.util.spec_from_file_location("train_net", REPO / "train_net.py")
        train_net = importlib.util.module_from_spec(spec)
        sys.modules["train_net"] = train_net
        spec.loader.exec_module(train_net)
        status = train_net.run(self.arguments)
        if status:
            raise SystemExit(status)
        return status

    def checkpoint(self):
        """What to submit when SLURM is about to end the job: the same, continued from the last checkpoint."""
        import submitit

        resumed = self.arguments if "--resume" in self.arguments else ["--resume", *self.arguments]
        return submitit.helpers.DelayedSubmission(Training(resumed))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if importlib.util.find_spec("submitit") is None:
        print("error: tools/slurm.py needs the package submitit: pip install submitit", file=sys.stderr)
        return 2
    import submitit

    executor = submitit.AutoExecutor(folder=args.logs, cluster=args.executor)
    options = {"slurm_partition": args.partition, "slurm_account": args.account, "slurm_qos": args.qos}
    executor.update_parameters(
        name=args.name,
        nodes=args.nodes,
        tasks_per_node=max(args.gpus, args.processes),
        cpus_per_task=args.cpus,
        timeout_min=round(60 * args.hours),
        **({"gpus_per_node": args.gpus} if args.gpus else {}),
        **({key: value for key, value in options.items() if value} if args.executor == "slurm" else {}),
        **({"slurm_signal_delay_s": 300} if args.executor == "slurm" else {}),
    )
    job = executor.submit(Training(args.arguments))
    print(f"job {job.job_id}; logs in {args.logs}", flush=True)
    if args.executor == "local":
        job.results()
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="per node, one process each; 0: train on CPUs")
    parser.add_argument("--processes", type=int, default=1, help="per node, where there are no GPUs")
    parser.add_argument("--cpus", type=int, default=8, help="per process")
    parser.add_argument("--hours", type=float, default=24.0, help="until SLURM ends the job and starts it again")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--qos")
    parser.add_argument("--name", default="segmentation")
    parser.add_argument("--logs", default="output/slurm", help="folder, reached by all nodes")
    parser.add_argument("--executor", choices=("slurm", "local"), default="slurm")
    parser.add_argument("arguments", nargs="+", help="after --: those of train_net.py")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
