"""Pictures of results, worth showing: coloured masks, readable labels, a legend, a contact sheet.

    colors.py    display colours of classes, and of the objects of one class
    layers.py    masks and their borders over a photograph
    labels.py    where a label goes, and how it looks
    legend.py    class names with their share of the picture
    render.py    one picture per task, and the sheet of all

Everything is (H, W, 3) uint8 RGB in and out; needs neither torch nor Detectron2.
"""

from .render import contact_sheet, grid, render, render_all, with_legend

__all__ = ["contact_sheet", "grid", "render", "render_all", "with_legend"]
