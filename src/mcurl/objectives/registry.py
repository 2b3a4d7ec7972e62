"""The registry of contrastive objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcurl.registry import Registry

if TYPE_CHECKING:
    from mcurl.objectives.base import Objective

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    "mcurl.objectives.base:Objective",
    {
        "mcurl": "mcurl.objectives.masked:MCurl",
        "curl": "mcurl.objectives.contrast:Curl",
        "seq-curl": "mcurl.objectives.sequence:SeqCurl",
        "sym-curl": "mcurl.objectives.sequence:SymCurl",
    },
)
