"""Architecture generators after SGNAS: a budget in, an architecture out."""

from __future__ import annotations

from nas.generator.answers import Answer, answers, least_outcomes, raw_answers
from nas.generator.expected_costs import (
    Kind,
    PlaneCosts,
    count_costs,
    latency_costs,
    memory_costs,
)
from nas.generator.generator import (
    Generator,
    GeneratorLabel,
    Request,
    device_of,
    load_generator,
    save_generator,
)
from nas.generator.planes import DecisionPlane, plane_of
from nas.generator.published import import_generator
from nas.generator.repair import PlaneLimit
from nas.generator.requests import answering_space, requests_for, require_table

__all__ = [
    "Answer",
    "DecisionPlane",
    "Generator",
    "GeneratorLabel",
    "Kind",
    "PlaneCosts",
    "PlaneLimit",
    "Request",
    "answering_space",
    "answers",
    "count_costs",
    "device_of",
    "import_generator",
    "latency_costs",
    "least_outcomes",
    "load_generator",
    "memory_costs",
    "plane_of",
    "raw_answers",
    "requests_for",
    "require_table",
    "save_generator",
]
