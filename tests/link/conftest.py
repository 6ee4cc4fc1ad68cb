"""One authority for all link tests: making keys is the slow part."""

from pathlib import Path

import pytest

from fedlite.crypto.certificates import Authority
from tests.link.world import make_authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(Path(tmp_path_factory.mktemp("authority")) / "ours")


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(Path(tmp_path_factory.mktemp("authority")) / "theirs")
