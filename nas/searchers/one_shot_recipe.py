"""Settings of searches that get their scores from a supernet."""

from __future__ import annotations

from nas.optimize.blackbox.variation import DEFAULT, Variation
from nas.recipes import Count, Fraction
from nas.training.supernet_training import SupernetRecipe


class OneShotRecipe(SupernetRecipe, frozen=True, kw_only=True, tag="one-shot"):
    """Settings of the training and of the search.

    Attributes:
        strategy: Strategy that draws the paths of the training, a name in ``STRATEGIES``.
        alike: Correlation of the initial weights of a layer's operations or sub-blocks; 0 as
            published.
        evaluations: Number of architectures to score for each target; 1000 in SPOS and OSNASLib.
        at_once: Number of architectures that are proposed before their scores are known, so that
            several processes can compute them. With more, a search learns a little later.
        surrogate: Whether a model ranks the candidates of evolution before they are scored.
        initial_population: Number of random architectures at the start.
        parents: Number of best architectures that become parents.
        crossovers: Share of the children that have two parents.
        mutation_rate: Probability that a mutation changes a decision; 0 means one or a few changes.
        mutate_crossed: Whether children of two parents are mutated as well.
        single_point: Whether a crossover takes the first layers from one parent and the last ones
            from the other.
    """

    strategy: str = "uniform"
    alike: Fraction = 0.0
    evaluations: Count = 200
    at_once: Count = 1
    surrogate: bool = True
    initial_population: Count = DEFAULT.initial
    parents: Count = DEFAULT.parents
    crossovers: Fraction = DEFAULT.crossovers
    mutation_rate: Fraction = DEFAULT.mutation_rate
    mutate_crossed: bool = DEFAULT.mutate_crossed
    single_point: bool = DEFAULT.single_point

    @property
    def variation(self) -> Variation:
        """Settings of mutation and crossover."""
        return Variation(
            initial=self.initial_population,
            parents=self.parents,
            crossovers=self.crossovers,
            mutation_rate=self.mutation_rate,
            mutate_crossed=self.mutate_crossed,
            single_point=self.single_point,
        )
