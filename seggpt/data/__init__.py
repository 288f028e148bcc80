"""In-context episodes from any registered data set; importing this registers the mapper.

annotations.py   a record's labels as an integer map
context.py       which record a record is shown with
augmentation.py  crops, flips and colours of a picture and its map
colouring.py     the random colour table of an episode
masking.py       which patches of the target are hidden
episodes.py      all of it: a record -> a stitched canvas
places.py        objects painted in the colour of where they are
queries.py       a record -> a question with its whole target, for in-context tuning
"""

from segcore.data import MAPPER_REGISTRY
from segcore.registry import register_once

from .episodes import EpisodeMapper
from .queries import QueryMapper


@register_once(MAPPER_REGISTRY)
def seggpt_episode(cfg, is_train: bool = True) -> EpisodeMapper:
    """Registered as INPUT.DATASET_MAPPER_NAME "seggpt_episode"."""
    return EpisodeMapper(cfg, is_train)


@register_once(MAPPER_REGISTRY)
def seggpt_query(cfg, is_train: bool = True) -> QueryMapper:
    """Registered as INPUT.DATASET_MAPPER_NAME "seggpt_query"."""
    return QueryMapper(cfg, is_train)


__all__ = ["EpisodeMapper", "QueryMapper", "seggpt_episode", "seggpt_query"]
