"""The whole page: its three tabs, its look, and the server's bounds."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import gradio as gr

from . import tab_oneformer, tab_seggpt, tab_together
from .limits import Limits
from .models import Models

_ASSETS = Path(__file__).resolve().parent / "assets"
_FONTS = ("Inter", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # nothing is fetched
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
_TITLE = "OneFormer and SegGPT"


def build_page(models: Models, limits: Limits, results: Path) -> gr.Blocks:
    """The page.

    Args:
        models: what its tabs ask.
        limits: what one visitor may ask for.
        results: folder for files that visitors download.
    """
    with gr.Blocks(
        title=_TITLE, analytics_enabled=False, delete_cache=(limits.file_seconds // 4, limits.file_seconds)
    ) as page:
        gr.HTML(_heading(models), elem_id="heading")
        with gr.Tab("OneFormer", id="oneformer"):
            tab_oneformer.build_tab(models, limits, results)
        with gr.Tab("SegGPT", id="seggpt"):
            tab_seggpt.build_tab(models, limits, results)
        with gr.Tab("Together", id="together"):
            tab_together.build_tab(models, limits, results)
    # Requests to the models wait for each other; what only reads an upload does not.
    page.queue(max_size=limits.queue, default_concurrency_limit=4, api_open=False)
    return page


def serve(
    models: Models,
    limits: Limits,
    host: str = "127.0.0.1",
    port: int | None = 7860,
    *,
    work: str | None = None,
    block: bool = True,
) -> gr.Blocks:
    """Start the server.

    Args:
        models, limits: see `build_page`.
        host: the address to listen on; by default this machine alone can reach the page.
        port: None takes a free one from 7860 on.
        work: folder for uploads and results; by default a temporary one, which goes when the process ends.
        block: until Ctrl-C.

    Returns:
        The page; `local_url` is its address.

    Raises:
        OSError: if the port is taken.
    """
    folder = Path(work).resolve() if work else Path(tempfile.mkdtemp(prefix="segmentation-page-"))
    if work is None:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    uploads, results = folder / "uploads", folder / "results"
    for part in (uploads, results):
        part.mkdir(parents=True, exist_ok=True)
    # Read by Gradio when a component is made, so before the page is.
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    # A clip's file may name no address: only files are opened.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
    page = build_page(models, limits, results)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        max_file_size=limits.file_bytes,
        allowed_paths=[str(results)],
        share=False,
        # Without Gradio's request to itself, which gives up after three seconds: too few for a busy machine.
        _frontend=False,
        ssr_mode=False,
        show_error=False,
        quiet=not block,
        footer_links=["api"],
        theme=_theme(),
        css=(_ASSETS / "page.css").read_text(encoding="utf-8"),
        head=_scripts(),
    )
    return page


def _scripts() -> str:
    files = (_ASSETS / "viewer.js", _ASSETS / "painter.js")
    return "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in files)


def _theme() -> gr.themes.Base:
    return gr.themes.Soft(
        primary_hue="indigo", neutral_hue="slate", radius_size="md", font=_FONTS, font_mono=_MONO
    )


def _heading(models: Models) -> str:
    classes = models.oneformer.classes.names
    weights = Path(models.oneformer.weights).name
    return (
        f"<header><h1>{_TITLE}</h1><p>Three ways to segment a picture with one model, and one model that segments "
        f"what you show it.</p><small>{weights} · {len(classes)} classes: {', '.join(classes[:12])}"
        f"{', …' if len(classes) > 12 else ''} · {models.oneformer.device}</small></header>"
    )
