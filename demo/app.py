#!/usr/bin/env python
"""The web page: OneFormer on pictures, SegGPT after painted examples, both together on clips.

  python demo/app.py                                    http://127.0.0.1:7860, the bundled weights
  python demo/app.py --seggpt-weights seggpt_vit_large.pth --device cuda
  python demo/app.py --config-file configs/ade20k/oneformer_swin_l.yaml --weights model.pth --port 8000
  python demo/app.py --host 0.0.0.0                     reachable from other machines

Needs the extra: pip install '.[web]'. Uploads are kept in a temporary folder and deleted after an hour.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that a clone works without being installed

from demo.web.limits import Limits


def main(argv: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C; returns the exit status."""
    args = parse_args(argv)
    try:
        from demo.web.models import load_models
        from demo.web.page import serve

        models = load_models(
            args.config_file, args.weights, args.seggpt_config_file, args.seggpt_weights, args.device
        )
        limits = Limits(file_bytes=args.max_megabytes << 20, clip_frames=args.max_frames, queue=args.queue)
        serve(models, limits, args.host, args.port, work=args.work_folder)
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        print("error: the page needs Gradio; install the extra: pip install '.[web]'", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; see --help."""
    defaults = Limits()
    parser = argparse.ArgumentParser(
        prog="app.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_argument_group("models (default: the small ones in demo/weights)")
    model.add_argument("--weights", metavar="PATH|hf:ORG/NAME", help="OneFormer's; with --config-file unless portable")
    model.add_argument("--config-file", metavar="CFG", help="the config that OneFormer's weights belong to")
    model.add_argument("--seggpt-weights", metavar="PATH", help="SegGPT's; without them its two tabs say so")
    model.add_argument("--seggpt-config-file", metavar="CFG", help="where SegGPT's weights do not say")
    model.add_argument("--device", metavar="cpu|cuda", help="default: what the machine has")
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    server.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    server.add_argument("--work-folder", metavar="DIR", help="for uploads and results; default: a temporary folder")
    bounds = parser.add_argument_group("bounds for each visitor")
    bounds.add_argument("--max-megabytes", type=int, default=defaults.file_bytes >> 20, help="of a file (%(default)s)")
    bounds.add_argument("--max-frames", type=int, default=defaults.clip_frames, help="of a clip (%(default)s)")
    bounds.add_argument("--queue", type=int, default=defaults.queue, help="requests that may wait (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
