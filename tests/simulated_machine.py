"""A machine whose true latencies are known: its noise is that of a shared one, its time is virtual.

Other programs change the state of the machine several times a second, and slow down some blocks
more than others. Its speed drifts over minutes, and the placement of a session in memory slows down
a visit. Nothing sleeps: the clocks of the measuring modules show the time that the simulated calls
have taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray

import latbench.measure.sweep
import latbench.measure.visit
import latbench.measure.visiting
import latbench.workflows.profiling
import latbench.workflows.recorded_passes
from latbench.blocks import BlockSpec, Network, block_key, block_width
from latbench.cost import block_cost
from latbench.device import DeviceProfile
from latbench.profilers import Flush, Profiler, Session

_MACS_A_MS = 1.5e7
_BYTES_A_MS = 1e7  # from memory, in a cold call
_OPEN_MS, _OPEN_BLOCK_MS = 1.6, 0.9
_FLUSH_MS = 0.05
_STATE_S = 0.3  # mean duration of a state of the machine
_DRIFT_S = 120.0  # time in which the speed changes
_COLD, _HOT = 0.4, 0.55  # what a block takes inside a network, of its calls alone


@dataclass(frozen=True)
class Noise:
    """Noise of a simulated machine.

    Attributes:
        drift: Standard deviation of the slow change of the speed.
        quiet: Probability of a state in which other programs hardly disturb.
        session: Mean slowdown by the placement of a session in memory.
        call: Mean slowdown of a single call.
        misfit: Standard deviation of what no table knows of a network.
        sensitive: Share of blocks that other programs slow down twice as much.
    """

    drift: float = 0.007
    quiet: float = 0.5
    session: float = 0.015
    call: float = 0.005
    misfit: float = 0.006
    sensitive: float = 0.2


class SimulatedMachine(Profiler):
    """Stands in for a runtime on a shared machine with a virtual clock."""

    def __init__(self, profile: DeviceProfile, noise: Noise, *, seed: int) -> None:
        super().__init__(profile)
        self.noise, self.rng = noise, np.random.default_rng(seed)
        self.now_s = 0.0
        self.is_cold = False
        self._state, self._state_ends_s = 0.0, 0.0
        self._level, self._level_s = noise.drift * self.rng.normal(), 0.0
        self._costs: dict[BlockSpec, tuple[float, float]] = {}

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        return {"simulated": "1"}

    def open(self, network: Network) -> Session:
        self.now_s += (_OPEN_MS + _OPEN_BLOCK_MS * len(network)) / 1e3
        return _SimulatedSession(self, network)

    def cache_flusher(self) -> Flush:
        def flush() -> None:
            self.is_cold = True
            self.now_s += _FLUSH_MS / 1e3

        return flush

    def true_ms(self, network: Network) -> tuple[float, float]:
        """Hot and cold latency of a block or a network without any noise."""
        if len(network) == 1:
            return self._block_ms(network[0])
        cold, hot = (sum(self._block_ms(spec)[i] for spec in network) for i in (1, 0))
        draw = np.random.default_rng(crc32(",".join(map(block_key, network)).encode()))
        total = (_COLD * cold + _HOT * hot + 0.02) * (1 + self.noise.misfit * draw.normal())
        return total, total

    def _block_ms(self, spec: BlockSpec) -> tuple[float, float]:
        if spec not in self._costs:
            width, cost = block_width(spec), block_cost(spec)
            macs, slow = float(cost.macs), 1.0
            if width:  # steps of 16 for multiples of four; other widths are slow
                aligned = -(-width // 16) * 16 if width % 4 == 0 else width
                macs, slow = macs * aligned / width, 1.0 if width % 4 == 0 else 1.6
            own = 1 + 0.3 * np.random.default_rng(crc32(repr(type(spec)).encode())).random()
            hot = 0.02 + slow * own * macs / _MACS_A_MS
            self._costs[spec] = (hot, hot + cost.weight_bytes / _BYTES_A_MS)
        return self._costs[spec]

    def disturbance(self, sensitivity: float) -> float:
        """Present slowdown of a target, at least 1 but for the drift."""
        while self._state_ends_s < self.now_s:
            draw = self.rng.random()
            if draw < self.noise.quiet:
                self._state = self.rng.exponential(0.01)
            else:
                self._state = (0.05, 0.6)[draw > 0.8] + self.rng.exponential(0.1)
            self._state_ends_s += self.rng.exponential(_STATE_S)
        kept = np.exp(-(self.now_s - self._level_s) / _DRIFT_S)
        if kept < 0.99:
            fresh = np.sqrt(1 - kept**2) * self.noise.drift * self.rng.normal()
            self._level, self._level_s = kept * self._level + fresh, self.now_s
        return float((1 + sensitivity * self._state) * np.exp(self._level))


class _SimulatedSession(Session):
    def __init__(self, machine: SimulatedMachine, network: Network) -> None:
        self.machine = machine
        self.hot_ms, self.cold_ms = machine.true_ms(network)
        self.sensitivity = 1.0
        noise, own = machine.noise, 1.0
        if len(network) == 1:
            draw = np.random.default_rng(crc32(block_key(network[0]).encode()))
            self.sensitivity = 2.0 if draw.random() < noise.sensitive else 1.0
            own = float(np.exp(0.7 * draw.normal()))
        self.placement = 1 + machine.rng.exponential(own * noise.session)

    def call(self) -> None:
        self.timed_call()

    def timed_call(self) -> int:
        machine = self.machine
        true_ms = self.cold_ms if machine.is_cold else self.hot_ms
        machine.is_cold = False
        jitter = 1 + machine.rng.exponential(machine.noise.call)
        taken_ms = true_ms * self.placement * jitter * machine.disturbance(self.sensitivity)
        machine.now_s += taken_ms / 1e3
        return round(1e6 * taken_ms)

    def output(self) -> NDArray[np.float32]:
        raise AssertionError("nothing is computed here")

    def close(self) -> None:
        return


def keep_time(machine: SimulatedMachine, patched: pytest.MonkeyPatch) -> None:
    """Let the measuring modules read the clock of a simulated machine."""
    clocks: dict[ModuleType, str] = {
        latbench.measure.sweep: "perf_counter",
        latbench.measure.visiting: "perf_counter",
        latbench.workflows.profiling: "monotonic",
        latbench.workflows.recorded_passes: "monotonic",
    }
    for module, name in clocks.items():
        patched.setattr(module, name, lambda: machine.now_s)
    patched.setattr(latbench.measure.visit, "perf_counter_ns", lambda: round(1e9 * machine.now_s))
