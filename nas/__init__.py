"""Networks: spaces, architectures, supernets, searches, training.

Every millisecond comes from ``latbench``. The public names are those of ``__all__``; each is
imported when it is first used. The commands of ``latbench`` call the same functions.

    import nas

    space = nas.make_space("tfnas", input_size=32, classes=10)
    table = nas.profile("cpu-onnxruntime", space, "t.sqlite", time_limit="8min")
    print(nas.predict(space.random(seed=3), table))
"""

from typing import TYPE_CHECKING

from latbench.lazy import public

if TYPE_CHECKING:
    from nas.data import load_data
    from nas.data.images import ImageData
    from nas.generator import Generator
    from nas.report.page.report import write_report
    from nas.scaffold import Component, create
    from nas.searchers import SearchResult
    from nas.spaces import Architecture, SearchSpace, Variant, load_architecture, make_space
    from nas.workflows.calibration import Calibration, calibrate
    from nas.workflows.data import PackedImages, pack
    from nas.workflows.demo import DemoResult, run_demo
    from nas.workflows.export import ExportedModel, export
    from nas.workflows.fitting import FittedArchitecture, fit
    from nas.workflows.fleet_profiling import ProfiledDevice, profile_devices
    from nas.workflows.generation import (
        GeneratedArchitecture,
        GeneratedArchitectures,
        adapt_generator,
        describe_generator,
        generate,
        import_generator,
        load_generator,
        save_generator,
    )
    from nas.workflows.networks import SpaceSummary, cost, list_spaces, predict
    from nas.workflows.own_models import bench, explain
    from nas.workflows.pruning import PrunedNetwork, prune
    from nas.workflows.search import SearchResults, search
    from nas.workflows.search_space import choose_space
    from nas.workflows.several_trainings import TrainingOutcome, train_several
    from nas.workflows.space_profiling import ProfiledTable, forecast, profile
    from nas.workflows.table_import import import_table
    from nas.workflows.training import TrainedNetwork, evaluate, train
    from nas.workflows.verification import VerifiedArchitectures, verify

__all__ = [
    "Architecture",
    "Calibration",
    "Component",
    "DemoResult",
    "ExportedModel",
    "FittedArchitecture",
    "GeneratedArchitecture",
    "GeneratedArchitectures",
    "Generator",
    "ImageData",
    "PackedImages",
    "ProfiledDevice",
    "ProfiledTable",
    "PrunedNetwork",
    "SearchResult",
    "SearchResults",
    "SearchSpace",
    "SpaceSummary",
    "TrainedNetwork",
    "TrainingOutcome",
    "Variant",
    "VerifiedArchitectures",
    "adapt_generator",
    "bench",
    "calibrate",
    "choose_space",
    "cost",
    "create",
    "describe_generator",
    "evaluate",
    "explain",
    "export",
    "fit",
    "forecast",
    "generate",
    "import_generator",
    "import_table",
    "list_spaces",
    "load_architecture",
    "load_data",
    "load_generator",
    "make_space",
    "pack",
    "predict",
    "profile",
    "profile_devices",
    "prune",
    "run_demo",
    "save_generator",
    "search",
    "train",
    "train_several",
    "verify",
    "write_report",
]

_PLACES = {
    "Architecture": "nas.spaces",
    "Calibration": "nas.workflows.calibration",
    "Component": "nas.scaffold",
    "DemoResult": "nas.workflows.demo",
    "ExportedModel": "nas.workflows.export",
    "FittedArchitecture": "nas.workflows.fitting",
    "GeneratedArchitecture": "nas.workflows.generation",
    "GeneratedArchitectures": "nas.workflows.generation",
    "Generator": "nas.generator",
    "ImageData": "nas.data.images",
    "PackedImages": "nas.workflows.data",
    "ProfiledDevice": "nas.workflows.fleet_profiling",
    "ProfiledTable": "nas.workflows.space_profiling",
    "PrunedNetwork": "nas.workflows.pruning",
    "SearchResult": "nas.searchers",
    "SearchResults": "nas.workflows.search",
    "SearchSpace": "nas.spaces",
    "SpaceSummary": "nas.workflows.networks",
    "TrainedNetwork": "nas.workflows.training",
    "TrainingOutcome": "nas.workflows.several_trainings",
    "Variant": "nas.spaces",
    "VerifiedArchitectures": "nas.workflows.verification",
    "adapt_generator": "nas.workflows.generation",
    "bench": "nas.workflows.own_models",
    "calibrate": "nas.workflows.calibration",
    "choose_space": "nas.workflows.search_space",
    "cost": "nas.workflows.networks",
    "create": "nas.scaffold",
    "describe_generator": "nas.workflows.generation",
    "evaluate": "nas.workflows.training",
    "explain": "nas.workflows.own_models",
    "export": "nas.workflows.export",
    "fit": "nas.workflows.fitting",
    "forecast": "nas.workflows.space_profiling",
    "generate": "nas.workflows.generation",
    "import_generator": "nas.workflows.generation",
    "import_table": "nas.workflows.table_import",
    "list_spaces": "nas.workflows.networks",
    "load_architecture": "nas.spaces",
    "load_data": "nas.data",
    "load_generator": "nas.workflows.generation",
    "make_space": "nas.spaces",
    "pack": "nas.workflows.data",
    "predict": "nas.workflows.networks",
    "profile": "nas.workflows.space_profiling",
    "profile_devices": "nas.workflows.fleet_profiling",
    "run_demo": "nas.workflows.demo",
    "save_generator": "nas.workflows.generation",
    "prune": "nas.workflows.pruning",
    "search": "nas.workflows.search",
    "train": "nas.workflows.training",
    "train_several": "nas.workflows.several_trainings",
    "verify": "nas.workflows.verification",
    "write_report": "nas.report.page.report",
}

if not TYPE_CHECKING:  # for a type checker the names above are all there are
    __getattr__, __dir__ = public(__name__, _PLACES, extra="nas")
