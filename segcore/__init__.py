"""What both segmenters share: operators, data sets, engine, evaluation, checkpoints."""
