"""Optimizers whose step is one kernel over all parameters, written in Tessera itself; schedules in ``optim.lr``.

They are torch's optimizers to everything around them: the same arguments, groups, state and checkpoints. ``max_norm``
clips the gradients by their global norm inside of the step.
"""

from tessera.optim import lr
from tessera.optim.adam import Adam, AdamW
from tessera.optim.lion import Lion
from tessera.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Lion", "lr"]
