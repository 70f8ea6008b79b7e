"""The one training loop: batches, validation, early stopping, checkpoint and exact resume, progress."""

from __future__ import annotations

from hepgen.training.loop import Objective, train, train_ensemble
from hepgen.training.plan import Plan, Stage, halving_stages
from hepgen.training.record import Record
from hepgen.training.samples import Batch, Sample

__all__ = ["Batch", "Objective", "Plan", "Record", "Sample", "Stage", "halving_stages", "train", "train_ensemble"]
