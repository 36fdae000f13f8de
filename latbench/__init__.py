"""Latency of networks on devices: profile a device, price a network, verify the price.

This package does not know architectures or training; these are in ``nas``. Its functions take block
specs, or networks as tuples of block specs, and return latencies in milliseconds. The public names
are listed in ``__all__``; each is imported when it is first used.

    import latbench

    print(latbench.list_devices())
    table = latbench.LatencyTable.open("t.sqlite")
    print(latbench.check_table(table))
"""

from typing import TYPE_CHECKING

from latbench.lazy import public

if TYPE_CHECKING:
    from latbench.device import DeviceProfile, Host
    from latbench.device_files import load_device
    from latbench.errors import LatbenchError
    from latbench.progress import Progress
    from latbench.report.page.page_file import WrittenReport
    from latbench.report.page.table_report import write_report
    from latbench.tables import LatencyTable, Prediction, TableCheck
    from latbench.tables.comparison import TableDifference
    from latbench.workflows.added_device import AddedDevice, add_device
    from latbench.workflows.alignment import Alignment, align
    from latbench.workflows.bench import Bench, bench
    from latbench.workflows.devices import DeviceCheck, DeviceStatus, check_device, list_devices
    from latbench.workflows.explanation import Explanation, explain
    from latbench.workflows.table_checks import check_table, compare_tables

__version__ = "0.1.0"

__all__ = [
    "AddedDevice",
    "Alignment",
    "Bench",
    "DeviceCheck",
    "DeviceProfile",
    "DeviceStatus",
    "Explanation",
    "Host",
    "LatbenchError",
    "LatencyTable",
    "Prediction",
    "Progress",
    "TableCheck",
    "TableDifference",
    "WrittenReport",
    "add_device",
    "align",
    "bench",
    "check_device",
    "check_table",
    "compare_tables",
    "explain",
    "list_devices",
    "load_device",
    "write_report",
]

_PLACES = {
    "AddedDevice": "latbench.workflows.added_device",
    "Alignment": "latbench.workflows.alignment",
    "Bench": "latbench.workflows.bench",
    "DeviceCheck": "latbench.workflows.devices",
    "DeviceProfile": "latbench.device",
    "DeviceStatus": "latbench.workflows.devices",
    "Explanation": "latbench.workflows.explanation",
    "Host": "latbench.device",
    "LatbenchError": "latbench.errors",
    "LatencyTable": "latbench.tables",
    "Prediction": "latbench.tables",
    "Progress": "latbench.progress",
    "TableCheck": "latbench.tables",
    "TableDifference": "latbench.tables.comparison",
    "WrittenReport": "latbench.report.page.page_file",
    "add_device": "latbench.workflows.added_device",
    "align": "latbench.workflows.alignment",
    "bench": "latbench.workflows.bench",
    "check_device": "latbench.workflows.devices",
    "check_table": "latbench.workflows.table_checks",
    "compare_tables": "latbench.workflows.table_checks",
    "explain": "latbench.workflows.explanation",
    "list_devices": "latbench.workflows.devices",
    "load_device": "latbench.device_files",
    "write_report": "latbench.report.page.table_report",
}

if not TYPE_CHECKING:  # type checkers see only the names above
    __getattr__, __dir__ = public(__name__, _PLACES)
