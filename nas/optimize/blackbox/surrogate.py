"""Evolution with a surrogate: a model of the scores ranks candidates before evaluation.

The model is a Gaussian process over architectures with the kernel exp(-sum_l theta_l d_l). Here d_l
is the distance of the choices of layer l (``nas.optimize.blackbox.features``), and the weights
theta are those of the greatest likelihood, so the model learns which layers matter. The kernel is a
product over layers, so it can represent interactions of all orders. The next architecture to
evaluate is the candidate with the greatest expected improvement (Jones et al. 1998). If all
feasible architectures can be listed, all of them are candidates; otherwise a few generations of
evolution look for the best candidate.

Glossary:

    theta     weight of each layer's distance, ``(layers,)``
    noise     variance that the kernel does not explain, as a fraction of the kernel's variance
    K         kernel matrix of the evaluated architectures, noise on its diagonal, ``(n, n)``
    a         K^-1 z with z the standardised scores, ``(n,)``
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import ndtr

from nas.optimize.blackbox.base import BlackBox
from nas.optimize.blackbox.evolution import child, fittest
from nas.optimize.blackbox.features import Features, squared_distances
from nas.optimize.blackbox.variation import DEFAULT, Variation
from nas.optimize.constraints import Floats
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.enumeration import all_codes
from nas.optimize.random_codes import random_code

_LISTED = 10_000  # largest number of encodings up to which all architectures are candidates
_GENERATIONS, _CHILDREN = 4, 64  # of the evolution that looks for candidates in larger spaces
_FEW = 16  # number of candidates that become parents
_REFIT = 1.2  # the weights are fitted again when the number of scores grew by this factor
_STEPS = 20  # steps of each fit

# priors of log theta and log noise; wide, so that some tens of scores outweigh them
_THETA, _THETA_SPREAD = np.log(0.3), 1.5
_NOISE, _NOISE_SPREAD = np.log(2.5e-3), 2.0


class SurrogateEvolution(BlackBox):
    """Evaluates the candidate with the greatest expected improvement."""

    def __init__(self, encoded: EncodedSpace, *, seed: int, variation: Variation = DEFAULT) -> None:
        super().__init__(encoded, seed=seed, variation=variation)
        self.process = GaussianProcess(Features(encoded))
        self.listed = all_codes(encoded, _LISTED)

    def _propose(self) -> Code:
        if len(self.scores) < self.variation.initial:
            return random_code(self.encoded, self.rng)
        self.process.fit(np.array(list(self.scores)), np.array(list(self.scores.values())))
        if self.listed is not None:
            candidates = self.listed
            values = self._values(candidates)
        else:
            candidates, values = self._evolved()
        return tuple(candidates[int(values.argmax())].tolist())

    def _values(self, codes: NDArray[np.int64]) -> Floats:
        """Expected improvements. Evaluated encodings get the lowest value."""
        values = self.process.expected_improvement(codes, self.best[1])
        known = [tuple(code) in self.scores for code in codes.tolist()]
        values[np.flatnonzero(known)] = -1.0
        return values

    def _evolved(self) -> tuple[NDArray[np.int64], Floats]:
        """Candidates and their expected improvements after some generations."""
        best_known = fittest(self)
        pool = {random_code(self.encoded, self.rng): None for _ in range(_CHILDREN)}
        parents = best_known
        for _ in range(_GENERATIONS):
            pool |= {child(self, parents, self.rng): None for _ in range(_CHILDREN)}
            codes = np.array(list(pool))
            values = self._values(codes)
            best = np.argsort(-values, kind="stable")[:_FEW]
            parents = [*best_known, *(tuple(code) for code in codes[best].tolist())]
        return codes, values


class GaussianProcess:
    """Predicts the scores of architectures from those of others.

    Args:
        features: Vectors of the encodings.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        layers = len(features.tables)
        self.log_weights = np.append(np.full(layers, _THETA), _NOISE)  # theta, then noise
        self._fitted_on = 0

    def fit(self, codes: NDArray[np.int64], scores: Floats) -> None:
        """Condition on scores ``(n,)`` of encodings ``(n, layers)``; sometimes fit the weights."""
        self.mean, self.spread = float(scores.mean()), float(scores.std()) or 1.0
        z = (scores - self.mean) / self.spread
        vectors = self.features.of(codes)
        if len(codes) >= _REFIT * self._fitted_on:
            self._fit_weights(vectors, z)
            self._fitted_on = len(codes)
        self._known = vectors * self._scale()
        kernel = np.exp(-squared_distances(self._known, self._known))
        kernel[np.diag_indices_from(kernel)] += np.exp(self.log_weights[-1])
        self._factor = cho_factor(kernel, lower=True)
        self._a = cho_solve(self._factor, z)
        self._variance = max(float(z @ self._a) / len(z), 1e-12)

    def predict(self, codes: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Mean and standard deviation ``(n,)`` of the scores of encodings ``(n, layers)``."""
        vectors = self.features.of(codes) * self._scale()
        kernel = np.exp(-squared_distances(vectors, self._known))  # (n, known)
        mean = kernel @ self._a
        explained = np.einsum("ij,ji->i", kernel, cho_solve(self._factor, kernel.T))
        deviation = np.sqrt(self._variance * np.maximum(1 - explained, 1e-12))
        return self.mean + self.spread * mean, self.spread * deviation

    def expected_improvement(self, codes: NDArray[np.int64], best: float) -> Floats:
        """Expected improvement of every encoding over the best known score, ``(n,)``."""
        mean, deviation = self.predict(codes)
        gain = mean - best
        u = gain / deviation
        density = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
        result: Floats = gain * ndtr(u) + deviation * density
        return result

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
