"""How a model is evaluated, by name."""

from fvcore.common.registry import Registry

PROTOCOL_REGISTRY = Registry("PROTOCOL")
PROTOCOL_REGISTRY.__doc__ = """
Functions (cfg, model, data set name, output folder) -> {key: {metric: percent}}, called in all processes;
TEST.PROTOCOL names one. On other processes than the first the result may be empty.
"""
