"""The client app for Flower's own runtime: each node trains on its share of the data set.

The share is the node's partition-id of num-partitions, as Flower's simulation and deployment set them.
"""

from collections.abc import Mapping

from fedlite import config as records
from fedlite.apps.client import client_app
from fedlite.apps.device import Device, Fixed, Stored, open_teacher
from fedlite.apps.job import unverified
from fedlite.apps.settings import FlowerSettings
from fedlite.data.spec import open_data
from fedlite.errors import SettingsError
from fedlite.flower import ConfigRecord, Context, RecordDict
from fedlite.uplink import Clear


class ContextStore:
    """Named bytes in a Flower context's state, which Flower keeps between rounds."""

    def __init__(self, state: RecordDict) -> None:
        if "fedlite" not in state.config_records:
            state["fedlite"] = ConfigRecord()
        self._record = state.config_records["fedlite"]

    def get(self, name: str) -> bytes | None:
        """The bytes, or None."""
        value = self._record.get(name)
        return value if isinstance(value, bytes) else None

    def put(self, values: Mapping[str, bytes | None]) -> None:
        """Write them all; None deletes."""
        for name, value in values.items():
            if value is None:
                self._record.pop(name, None)
            else:
                self._record[name] = value


def device_of(context: Context) -> Device:
    """The device a Flower node stands for."""
    settings = FlowerSettings(
        **records.from_mapping(FlowerSettings, context.run_config, source="the run config")
    )
    try:
        part = int(context.node_config["partition-id"])
        parts = settings.clients or int(context.node_config["num-partitions"])
    except KeyError as error:
        raise SettingsError(
            f"this node's configuration has no {error}",
            remedy="start the SuperNode with --node-config 'partition-id=0 num-partitions=3'",
        ) from error
    spec = f"{settings.dataset}:{part}/{parts}"
    data = open_data(spec, partition=settings.partition, seed=settings.seed, data_dir=settings.data_dir)
    memory = Stored(ContextStore(context.state))
    teacher = open_teacher(settings.teacher)
    return Device(str(context.node_id), Fixed(data.x, data.y), memory, Clear(), unverified, teacher=teacher)


app = client_app(device_of)
