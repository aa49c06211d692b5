"""Hydra configuration of the trainings: a size is a file here, a stage of a size is `STAGE/SIZE.yaml`."""
