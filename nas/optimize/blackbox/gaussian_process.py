"""A Gaussian process over architectures: scores of some predict those of others.

The kernel is exp(-sum_l theta_l d_l). Here d_l is the distance of the choices of layer l
(``nas.optimize.blackbox.features``), and the weights theta are those of the greatest likelihood, so
the model learns which layers matter. The kernel is a product over layers, so it can represent
interactions of all orders.

A search adds one score after another. What follows from the earlier ones is kept: a further score
adds one row to the factor of the kernel and one to what is known of a fixed list of candidates.
Scores that are taken back take their rows with them.

Glossary:

    theta     weight of each layer's distance, ``(layers,)``
    noise     variance that the kernel does not explain, as a fraction of the kernel's variance
    K         kernel matrix of the evaluated architectures, noise on its diagonal, ``(n, n)``
    L         lower Cholesky factor of K
    u         L^-1 z with z the standardised scores, ``(n,)``
    V         L^-1 times the kernel between evaluated architectures and candidates, ``(n, m)``; the
              mean of a candidate is u V, and the part of its variance that is explained is the sum
              of the squares of its column
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

from nas.optimize.blackbox.features import Features, squared_distances
from nas.optimize.constraints import Floats

Codes = NDArray[np.int64]
"""Encodings ``(n, layers)``."""

_REFIT = 1.2  # the weights are fitted again when the number of scores grew by this factor
_STEPS = 20  # steps of each fit

# priors of log theta and log noise; wide, so that some tens of scores outweigh them
_THETA, _THETA_SPREAD = np.log(0.3), 1.5
_NOISE, _NOISE_SPREAD = np.log(2.5e-3), 2.0


class GaussianProcess:
    """Predicts the scores of architectures from those of others.

    Args:
        features: Vectors of the encodings.
        listed: Candidates whose predictions are asked for again and again; None if there is no
            such list.
    """

    def __init__(self, features: Features, listed: Codes | None = None) -> None:
        self.features = features
        layers = len(features.tables)
        self.log_weights = np.append(np.full(layers, _THETA), _NOISE)  # theta, then noise
        self._fitted_on = 0
        self._codes: Codes = np.empty((0, layers), dtype=np.int64)
        self._known = np.empty((0, len(features.layer_of)))
        self._lower = np.empty((0, 0))
        self._unscaled = None if listed is None else features.of(listed)
        self._listed: Floats | None = None  # vectors of the candidates, scaled
        self._solved = _Rows(0 if listed is None else len(listed))  # V of the candidates

    def fit(self, codes: Codes, scores: Floats) -> None:
        """Condition on scores ``(n,)`` of encodings ``(n, layers)``; sometimes fit the weights."""
        self.mean, self.spread = float(scores.mean()), float(scores.std()) or 1.0
        z = (scores - self.mean) / self.spread
        vectors = self.features.of(codes)
        if len(codes) >= _REFIT * self._fitted_on:
            self._fit_weights(vectors, z)
            self._fitted_on = len(codes)
            self._codes, self._listed = codes[:0], None
        kept = _common(self._codes, codes)
        self._known = vectors * self._scale()
        self._extend(kept)
        self._codes = codes
        self._u = solve_triangular(self._lower, z, lower=True, check_finite=False)
        self._variance = max(float(self._u @ self._u) / len(z), 1e-12)

    def _extend(self, kept: int) -> None:
        """Extend the factor of the kernel; its first ``kept`` rows still hold."""
        old, new = self._known[:kept], self._known[kept:]
        lower = self._lower[:kept, :kept]
        beside = _solve(lower, np.exp(-squared_distances(old, new))).T  # (new, kept)
        corner = np.exp(-squared_distances(new, new)) - beside @ beside.T
        corner[np.diag_indices_from(corner)] += np.exp(self.log_weights[-1])
        self._lower = np.block(
            [[lower, np.zeros((kept, len(new)))], [beside, np.linalg.cholesky(corner)]]
        )
        self._solved.keep(0 if self._listed is None else kept)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation ``(m,)`` of the scores of encodings ``(m, layers)``."""
        vectors = self.features.of(codes) * self._scale()
        return self._predicted(_solve(self._lower, self._kernel(0, vectors)))

    def predict_listed(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the scores of the list of candidates."""
        if self._listed is None:
            assert self._unscaled is not None, "there is a list of candidates"
            self._listed = self._unscaled * self._scale()
        first, rows = self._solved.count, self._solved.values
        if first < len(self._known):
            kernel = self._kernel(first, self._listed) - self._lower[first:, :first] @ rows
            self._solved.append(_solve(self._lower[first:, first:], kernel))
        return self._predicted(self._solved.values)

    def _kernel(self, first: int, vectors: Floats) -> Floats:
        """Kernel between evaluated architectures, from the first one on, and others."""
        found: Floats = np.exp(-squared_distances(self._known[first:], vectors))
        return found

    def _predicted(self, solved: Floats) -> tuple[Floats, Floats]:
        explained = np.einsum("ij,ij->j", solved, solved)
        deviation = np.sqrt(self._variance * np.maximum(1 - explained, 1e-12))
        return self.mean + self.spread * (self._u @ solved), self.spread * deviation

    def _scale(self) -> Floats:
        """Factor of each dimension in the kernel's distances, ``(dimensions,)``."""
        scale: Floats = np.exp(self.log_weights[:-1] / 2)[self.features.layer_of]
        return scale

    def _fit_weights(self, vectors: Floats, z: Floats) -> None:
        """Fit the weights of greatest likelihood, with the best variance of the kernel for each."""
        count, layer_of = len(z), self.features.layer_of
        layers = len(self.features.tables)
        by_layer = [vectors[:, layer_of == layer] for layer in range(layers)]
        apart = np.stack([squared_distances(v, v) for v in by_layer])  # (layers, n, n)
        centre = np.append(np.full(layers, _THETA), _NOISE)
        width = np.append(np.full(layers, _THETA_SPREAD), _NOISE_SPREAD)

        def loss(log_weights: Floats) -> tuple[float, Floats]:
            theta, noise = np.exp(log_weights[:-1]), np.exp(log_weights[-1])
            smooth = np.exp(-np.tensordot(theta, apart, axes=1))
            kernel = smooth + noise * np.eye(count)
            factor = cho_factor(kernel, lower=True)
            inverse = cho_solve(factor, np.eye(count))
            a = inverse @ z
            fit = max(float(z @ a), 1e-12)
            log_det = 2 * np.log(np.diag(factor[0])).sum()
            away = (log_weights - centre) / width
            value = (count * np.log(fit) + log_det + away @ away) / 2
            slope = (inverse - count / fit * np.outer(a, a)) / 2  # of value by kernel
            by_theta = -theta * np.tensordot(apart, slope * smooth, axes=2)
            by_noise = noise * np.trace(slope)
            return float(value), np.append(by_theta, by_noise) + away / width

        bounds = [(c - 4 * w, c + 4 * w) for c, w in zip(centre, width, strict=True)]
        found = minimize(
            loss,
            self.log_weights,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": _STEPS},
        )
        self.log_weights = np.asarray(found.x, dtype=np.float64)


def expected_improvement(predicted: tuple[Floats, Floats], best: float) -> Floats:
    """Expected improvement over the best known score (Jones et al. 1998), ``(m,)``.

    Args:
        predicted: Mean and standard deviation of the scores of candidates.
        best: The best known score.
    """
    mean, deviation = predicted
    gain = mean - best
    u = gain / deviation
    density = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
    result: Floats = gain * ndtr(u) + deviation * density
    return result


class _Rows:
    """A matrix that gets more rows, with room for twice as many."""

    def __init__(self, columns: int) -> None:
        self._data = np.empty((0, columns))
        self.count = 0

    @property
    def values(self) -> Floats:
        return self._data[: self.count]

    def keep(self, count: int) -> None:
        """Leave out all but the first rows."""
        self.count = min(self.count, count)

    def append(self, rows: Floats) -> None:
        needed = self.count + len(rows)
        if needed > len(self._data):
            grown = np.empty((2 * needed, self._data.shape[1]))
            grown[: self.count] = self.values
            self._data = grown
        self._data[self.count : needed] = rows
        self.count = needed


def _solve(lower: Floats, right: Floats) -> Floats:
    if len(lower) == 0:
        return right
    found: Floats = solve_triangular(lower, right, lower=True, check_finite=False)
    return found


def _common(one: Codes, other: Codes) -> int:
    """Number of first encodings that two lists have in common."""
    count = min(len(one), len(other))
    differing = np.flatnonzero((one[:count] != other[:count]).any(axis=1))
    return int(differing[0]) if len(differing) else count
