"""The door of the room: pretraining and fine-tuning as stages."""

from components.artifacts import Checkpoint, Pairs, Shards
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun
from components.training.config import FinetuneConfig, PretrainConfig


@stage(version=1, resumable=True, resources=Resources(drives_ray=True))
def pretrain(config: PretrainConfig, shards: Shards, run: StageRun) -> Checkpoint:
    """Train a model from scratch on the training split."""
    raise NotImplementedError


@stage(version=1, resumable=True, resources=Resources(drives_ray=True))
def finetune(config: FinetuneConfig, checkpoint: Checkpoint, pairs: Pairs, run: StageRun) -> Checkpoint:
    """Train a pretrained model on, with its first heads, on pairs of prompt and completion (paper section 3.6)."""
    raise NotImplementedError
