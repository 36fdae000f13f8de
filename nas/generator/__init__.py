"""Architecture generators after SGNAS: a budget in, an architecture out."""

from __future__ import annotations

from nas.generator.answers import Answer, answers, least_counts, raw_answers
from nas.generator.costs import Kind, MixCosts, count_costs, latency_costs
from nas.generator.generator import (
    Generator,
    GeneratorLabel,
    Request,
    device_of,
    load_generator,
    save_generator,
)
from nas.generator.published import import_generator
from nas.generator.repair import MixLimit
from nas.generator.requests import answering_space, requests_for, require_table

__all__ = [
    "Answer",
    "Generator",
    "GeneratorLabel",
    "Kind",
    "MixCosts",
    "MixLimit",
    "Request",
    "answering_space",
    "answers",
    "count_costs",
    "device_of",
    "import_generator",
    "latency_costs",
    "least_counts",
    "load_generator",
    "raw_answers",
    "requests_for",
    "require_table",
    "save_generator",
]
