"""The server app for Flower's own runtime: `flwr run .`

There are no fedlite keys here: whoever runs the SuperLink sees the updates. Results go to run-dir, if it is set.
"""

import tempfile
from pathlib import Path
from threading import Event

from fedlite import config as records
from fedlite.apps.job import Workshop, make_job, node, unsigned
from fedlite.apps.report import recorder
from fedlite.apps.server import run
from fedlite.apps.settings import FlowerSettings
from fedlite.flower import Context, Grid, ServerApp
from fedlite.ledger.store import Ledger
from fedlite.uplink import Clear

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job that the run config describes."""
    values = records.from_mapping(FlowerSettings, context.run_config, source="the run config")
    settings = FlowerSettings(**values)
    with tempfile.TemporaryDirectory() as scratch:
        folder = settings.run_dir or Path(scratch) / "results"
        workshop = Workshop(settings)
        workshop.check()
        with (
            Ledger.open(Path(scratch) / "ledger.db", settings.identity()) as ledger,
            recorder(
                folder,
                records.record(settings),
                settings.rounds,
                "fedlite on Flower",
                ledger,
            ) as watcher,
        ):
            model = run(grid, make_job(workshop, Clear(), unsigned, node), ledger, watcher, Event())
            summary = workshop.write(folder, model)
            watcher.table.note(f"finished after round {model.round_num}: {summary}")
