"""Distillation: a small model learns what a larger one, or many of its like, say.

| part | what it does |
|---|---|
| teacher | a model file as a teacher: its logits, and the name that tells it from any other |
| owner | the model owner's training with a teacher: soft labels, FitNets' hints, attention transfer |
| ensemble | many models as one teacher, asked one by one; FedDF's fusion on examples without labels |

Soft labels in a client's training are `fedlite.train.local_train(…, teacher=logits)`.
"""

from fedlite.distill.ensemble import Ensemble, feddf
from fedlite.distill.owner import METHODS, distill
from fedlite.distill.teacher import Teacher, load_teacher, teacher_logits

__all__ = ["METHODS", "Ensemble", "Teacher", "distill", "feddf", "load_teacher", "teacher_logits"]
