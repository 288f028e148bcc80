"""Results in the formats of other tools: files that they import, and objects that they use.

    shapes.py        a prediction -> masks, each with its class, score and colour
    outlines.py      a mask -> polygons along the edges of its pixels, exactly
    geojson.py       GeoJSON features, in pixels or on a map
    svg.py           a drawing with one named path per mask
    labelme.py       labelme's JSON
    cvat.py          CVAT's XML ("CVAT for images 1.1")
    cityscapes.py    what the Cityscapes evaluation reads
    detectron2.py    the dict that a Detectron2 model returns
    supervision.py   supervision.Detections
    files.py         the file formats by name, and where their files go

COCO (instances with RLE, panoptic PNG) and label PNGs are what `segcore.results.ResultWriter` always writes.
FiftyOne imports those: COCODetectionDataset for instances.json, ImageSegmentationDirectory for semantic/. Of a palette
PNG it reads the colours, so that its `mask_targets` are colours ("#ff6d04") with the class's names.
"""

from segcore.lazy import attach

__all__ = [
    "FORMATS",
    "Polygon",
    "Shape",
    "check_formats",
    "mask_polygons",
    "shapes_of",
    "to_detectron2",
    "to_supervision",
    "write_formats",
]

__getattr__, __dir__ = attach(__name__, {
    "FORMATS": ".files",
    "Polygon": ".outlines",
    "Shape": ".shapes",
    "check_formats": ".files",
    "mask_polygons": ".outlines",
    "shapes_of": ".shapes",
    "to_detectron2": ".detectron2",
    "to_supervision": ".supervision",
    "write_formats": ".files",
})
