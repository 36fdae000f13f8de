"""Progress of work that has phases, on a simulated clock."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.progress import Phase, Phases, PhaseText, silent


@dataclass
class Simulated:
    """A clock, and what was reported at which time."""

    now_s: float = 0.0
    reports: list[tuple[float, float, str]] = field(default_factory=list)

    def __call__(self, fraction: float, words: str, /) -> None:
        self.reports.append((self.now_s, fraction, words))

    def clock(self) -> float:
        return self.now_s

    @property
    def fractions(self) -> list[float]:
        return [fraction for _, fraction, _ in self.reports]

    def work(self, phases: Phases, name: str, seconds: float, *, first: float = 0.0) -> None:
        """Twenty steps of one phase, from a fraction that earlier work has reached."""
        begin_s = self.now_s
        for step in range(21):
            self.now_s = begin_s + seconds * step / 20
            phases[name](first + (1 - first) * step / 20, f"step {step}")


DURATIONS = st.lists(st.integers(1, 10**6), min_size=5, max_size=5)  # in units of 10 ms
PERCENT = st.integers(0, 100)


@given(DURATIONS, DURATIONS, st.data())
def test_fractions_never_fall_and_only_the_end_is_one(
    seconds: list[int], expected: list[int], data: st.DataObject
) -> None:
    """Whatever was expected, and whichever phases are not needed or go on from earlier work."""
    shown = Simulated()
    parts = [
        Phase(str(n), share, share / 100 if data.draw(st.booleans()) else None)
        for n, share in enumerate(expected)
    ]
    with Phases(shown, parts, clock=shown.clock) as phases:
        for part, taken in zip(parts, seconds, strict=True):
            if data.draw(st.booleans()):
                shown.work(phases, part.name, taken / 100, first=data.draw(PERCENT) / 100)
    *during, end = shown.fractions
    assert end == 1.0
    assert during == sorted(during)
    assert all(0 <= fraction < 1 for fraction in during)
    for _, _, words in shown.reports[:-1]:
        assert isinstance(words, PhaseText)
        assert words.left_s is None or words.left_s >= 0


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4), st.integers(1, 1000))
def test_the_time_left_is_right_if_the_shares_are(shares: list[int], unit_s: int) -> None:
    """The first steps of the first phase show how long a share takes."""
    shown = Simulated()
    parts = [Phase(str(n), share) for n, share in enumerate(shares)]
    with Phases(shown, parts, clock=shown.clock) as phases:
        for part in parts:
            shown.work(phases, part.name, unit_s * part.share)
    whole_s = shown.now_s
    for at_s, fraction, words in shown.reports[1:-1]:
        assert isinstance(words, PhaseText)
        assert words.left_s == pytest.approx(whole_s - at_s, rel=1e-6, abs=1e-6 * whole_s)
        assert fraction == pytest.approx(min(0.999, at_s / whole_s), abs=1e-6)


def test_the_time_left_is_of_the_rate_that_was_seen() -> None:
    """A first phase three times as slow as expected makes later shares slower, not later seconds;
    a wrong expectation of the present phase has no weight when a part of it is done."""
    shown = Simulated()
    parts = [Phase("train", 10.0), Phase("measure", seconds=50.0), Phase("score", 5.0)]
    with Phases(shown, parts, clock=shown.clock) as phases:
        shown.work(phases, "train", 30.0)
        words = shown.reports[-1][2]
        assert isinstance(words, PhaseText)
        assert words.left_s == pytest.approx(50 + 15)
        shown.work(phases, "measure", 200.0)
        halfway = next(words for at_s, _, words in shown.reports if at_s == 130)
        assert isinstance(halfway, PhaseText)
        assert (halfway.phase, halfway.done) == ("measure", 0.5)
        assert halfway.left_s == pytest.approx(100 + 15)


def test_work_that_goes_on_counts_only_what_it_does_itself() -> None:
    """Half was done before: the other half takes as long as it takes now."""
    shown = Simulated()
    with Phases(shown, [Phase("train"), Phase("test", 0.1)], clock=shown.clock) as phases:
        shown.work(phases, "train", 100.0, first=0.5)
    at = {round(at_s): words for at_s, _, words in shown.reports[:-1]}
    words = at[50]
    assert isinstance(words, PhaseText)
    assert words.done == 0.75
    assert words.left_s == pytest.approx(50 + 20)  # the whole would take 200 s


def test_phases_inside_a_phase_are_named_in_the_description() -> None:
    shown = Simulated()
    with Phases(shown, [Phase("search"), Phase("train")], clock=shown.clock) as outer:
        with Phases(
            outer["search"], [Phase("warm-up"), Phase("score")], clock=shown.clock
        ) as inner:
            shown.work(inner, "warm-up", 10.0)
            shown.work(inner, "score", 10.0)
        assert shown.fractions[-1] < 1
        outer["train"](0.5, "epoch 1")
    assert shown.reports[0][2] == "warm-up, step 0"
    assert [words.phase for _, _, words in shown.reports[:-1] if isinstance(words, PhaseText)] == [
        *["search"] * 43,
        "train",
    ]


def test_an_exception_is_no_end() -> None:
    shown = Simulated()
    with pytest.raises(KeyError), Phases(shown, [Phase("train")]) as phases:
        phases["train"](0.5, "epoch 1")
        raise KeyError
    assert shown.fractions[-1] < 1


def test_a_phase_reaches_another_process() -> None:
    sent = pickle.loads(pickle.dumps(PhaseText("pass 1", "measure", 0.5, None)))
    assert (sent, sent.phase, sent.done, sent.left_s) == ("pass 1", "measure", 0.5, None)
    silent(0.0, sent)
